//! The handshake: fixed newstyle option haggling, up to the choice of the export.

use super::error::{ProtocolError, Quoted};
use super::export::Export;
use super::reply::ALLOCATION_CONTEXT_ID;
use super::transmission::Negotiated;
use super::wire::{
    handshake_flag, info, option, rep, Reader, Writer, GREETING_MAGIC, MAX_STRING, OPTION_HEADER,
    OPTION_MAGIC, OPTION_REPLY_MAGIC,
};

/// Most bytes of data in one option: room for an export's name and several queries of the longest kind.
pub(super) const MAX_OPTION_DATA: usize = 32 << 10;

/// Most options of one handshake; clients send about ten.
const MAX_OPTIONS: u32 = 256;

/// Most metadata queries in one option.
const MAX_QUERIES: u32 = 64;

const ALLOCATION_CONTEXT: &[u8] = b"base:allocation";

const OFFERED: u16 = handshake_flag::FIXED_NEWSTYLE | handshake_flag::NO_ZEROES;

/// What a piece of the handshake led to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// The handshake goes on.
    Haggling,
    /// The client chose the export: what follows are requests.
    Chosen(Negotiated),
    /// The client gave up; its connection ends.
    Aborted,
}

/// The state between the greeting and the choice of an export.
#[derive(Debug)]
pub(super) struct Handshake {
    /// The client's flags, once they came.
    client_flags: Option<u16>,
    options: u32,
    negotiated: Negotiated,
}

/// An option whose reply is being written.
struct Answer<'a> {
    out: &'a mut Vec<u8>,
    option: u32,
}

impl Answer<'_> {
    fn send(&mut self, kind: u32, data: &[&[u8]]) {
        self.out.put_u64(OPTION_REPLY_MAGIC);
        self.out.put_u32(self.option);
        self.out.put_u32(kind);
        // Strings of the export (4096 bytes at most) or of this file: far below 32 bits.
        self.out.put_u32(data.iter().map(|part| part.len() as u32).sum());
        for part in data {
            self.out.put(part);
        }
    }

    fn acknowledge(&mut self) {
        self.send(rep::ACK, &[]);
    }

    fn refuse(&mut self, kind: u32, reason: &str) {
        self.send(kind, &[reason.as_bytes()]);
    }
}

impl Handshake {
    pub fn new() -> Handshake {
        Handshake {
            client_flags: None,
            options: 0,
            negotiated: Negotiated::default(),
        }
    }

    /// Appends what the server says first.
    pub fn greet(out: &mut Vec<u8>) {
        out.put_u64(GREETING_MAGIC);
        out.put_u64(OPTION_MAGIC);
        out.put_u16(OFFERED);
    }

    /// Takes the client's flags or one whole option off `input`; says how many bytes that were (0: not all of
    /// it is there yet) and where the handshake stands.
    pub fn next(
        &mut self,
        input: &[u8],
        export: &Export,
        out: &mut Vec<u8>,
    ) -> Result<(usize, Outcome), ProtocolError> {
        const INCOMPLETE: (usize, Outcome) = (0, Outcome::Haggling);
        let mut reader = Reader(input);
        if self.client_flags.is_none() {
            let Some(flags) = reader.u32() else {
                return Ok(INCOMPLETE);
            };
            let known = u16::try_from(flags).ok().filter(|flags| flags & !OFFERED == 0);
            self.client_flags = Some(known.ok_or(ProtocolError::ClientFlags(flags, u32::from(OFFERED)))?);
            return Ok((4, Outcome::Haggling));
        }
        let (Some(magic), Some(option), Some(length)) = (reader.u64(), reader.u32(), reader.u32()) else {
            return Ok(INCOMPLETE);
        };
        if magic != OPTION_MAGIC {
            return Err(ProtocolError::OptionMagic(magic));
        }
        let size = length as usize;
        if size > MAX_OPTION_DATA {
            let limit = MAX_OPTION_DATA as u32;
            return Err(ProtocolError::OptionTooLong {
                option,
                length,
                limit,
            });
        }
        if self.options == MAX_OPTIONS {
            return Err(ProtocolError::TooManyOptions(MAX_OPTIONS));
        }
        let Some(data) = reader.bytes(size) else {
            return Ok(INCOMPLETE);
        };
        self.options += 1;
        let outcome = self.option(option, data, export, out)?;
        Ok((OPTION_HEADER + size, outcome))
    }

    fn option(
        &mut self,
        option: u32,
        data: &[u8],
        export: &Export,
        out: &mut Vec<u8>,
    ) -> Result<Outcome, ProtocolError> {
        let mut answer = Answer { out, option };
        match option {
            option::EXPORT_NAME => return self.export_name(data, export, out),
            option::ABORT => {
                answer.acknowledge();
                return Ok(Outcome::Aborted);
            }
            option::INFO | option::GO => {
                let told = self.tell_info(data, export, &mut answer);
                if told && option == option::GO {
                    return Ok(Outcome::Chosen(self.negotiated));
                }
            }
            option::LIST if data.is_empty() => {
                let (name, description) = (&export.info().name, &export.info().description);
                let length = (name.len() as u32).to_be_bytes();
                answer.send(rep::SERVER, &[&length, name.as_bytes(), description.as_bytes()]);
                answer.acknowledge();
            }
            option::STRUCTURED_REPLY if data.is_empty() => {
                self.negotiated.structured = true;
                answer.acknowledge();
            }
            option::LIST | option::STRUCTURED_REPLY => {
                answer.refuse(rep::ERR_INVALID, "this option takes no data");
            }
            option::LIST_META_CONTEXT | option::SET_META_CONTEXT => {
                self.meta_context(data, export, &mut answer);
            }
            _ => answer.refuse(rep::ERR_UNSUP, "this server does not support the option"),
        }
        Ok(Outcome::Haggling)
    }

    fn export_name(
        &mut self,
        name: &[u8],
        export: &Export,
        out: &mut Vec<u8>,
    ) -> Result<Outcome, ProtocolError> {
        if !export.is_called(name) {
            let served = Quoted::new(export.info().name.as_bytes());
            return Err(ProtocolError::UnknownExport {
                asked: Quoted::new(name),
                served,
            });
        }
        out.put_u64(export.info().size_bytes);
        out.put_u16(export.transmission_flags(self.negotiated.structured));
        let no_zeroes = self
            .client_flags
            .is_some_and(|flags| flags & handshake_flag::NO_ZEROES != 0);
        if !no_zeroes {
            out.put(&[0; 124]);
        }
        Ok(Outcome::Chosen(self.negotiated))
    }

    /// Answers INFO and GO; says whether that was a success.
    fn tell_info(&self, data: &[u8], export: &Export, answer: &mut Answer<'_>) -> bool {
        let Some((name, wanted)) = parse_info(data) else {
            answer.refuse(rep::ERR_INVALID, "the option's data is malformed");
            return false;
        };
        if !export.is_called(name) {
            answer.refuse(rep::ERR_UNKNOWN, &unknown(name, export));
            return false;
        }
        let about = export.info();
        let flags = export.transmission_flags(self.negotiated.structured);
        let size = about.size_bytes.to_be_bytes();
        answer.send(
            rep::INFO,
            &[&info::EXPORT.to_be_bytes(), &size, &flags.to_be_bytes()],
        );
        let asked = |what: u16| wanted.chunks_exact(2).any(|item| item == what.to_be_bytes());
        if asked(info::NAME) {
            answer.send(rep::INFO, &[&info::NAME.to_be_bytes(), about.name.as_bytes()]);
        }
        if asked(info::DESCRIPTION) && !about.description.is_empty() {
            answer.send(
                rep::INFO,
                &[&info::DESCRIPTION.to_be_bytes(), about.description.as_bytes()],
            );
        }
        if asked(info::BLOCK_SIZE) {
            let sizes = [about.min_block, about.preferred_block, about.max_payload].map(u32::to_be_bytes);
            answer.send(
                rep::INFO,
                &[&info::BLOCK_SIZE.to_be_bytes(), sizes.as_flattened()],
            );
        }
        answer.acknowledge();
        true
    }

    fn meta_context(&mut self, data: &[u8], export: &Export, answer: &mut Answer<'_>) {
        let selects = answer.option == option::SET_META_CONTEXT;
        if selects {
            // What was selected before is replaced even when this fails.
            self.negotiated.allocation = false;
        }
        if !self.negotiated.structured {
            return answer.refuse(
                rep::ERR_INVALID,
                "metadata contexts need structured replies negotiated first",
            );
        }
        let queries = match parse_queries(data) {
            Ok(queries) if export.is_called(queries.export) => queries,
            Ok(queries) => return answer.refuse(rep::ERR_UNKNOWN, &unknown(queries.export, export)),
            Err((kind, reason)) => return answer.refuse(kind, reason),
        };
        // Without a query, everything is listed and nothing is selected.
        let matched = match selects {
            true => queries.allocation,
            false => queries.allocation || queries.wildcard || queries.count == 0,
        };
        if matched {
            let id = if selects { ALLOCATION_CONTEXT_ID } else { 0 };
            answer.send(rep::META_CONTEXT, &[&id.to_be_bytes(), ALLOCATION_CONTEXT]);
        }
        if selects {
            self.negotiated.allocation = matched;
        }
        answer.acknowledge();
    }
}

fn unknown(name: &[u8], export: &Export) -> String {
    format!(
        "export {} is not served here, {:?} is",
        Quoted::new(name),
        export.info().name
    )
}

/// Name and list of wanted items (2 bytes each) in the data of INFO and GO.
fn parse_info(data: &[u8]) -> Option<(&[u8], &[u8])> {
    let mut reader = Reader(data);
    let name = reader.string().filter(|name| name.len() <= MAX_STRING)?;
    let count = usize::from(reader.u16()?);
    let wanted = reader.bytes(2 * count)?;
    reader.is_empty().then_some((name, wanted))
}

/// What the queries of a metadata option ask for.
struct Queries<'a> {
    export: &'a [u8],
    count: u32,
    /// `base:allocation` is among them.
    allocation: bool,
    /// `base:` is among them.
    wildcard: bool,
}

fn parse_queries(data: &[u8]) -> Result<Queries<'_>, (u32, &'static str)> {
    const MALFORMED: (u32, &str) = (rep::ERR_INVALID, "the option's data is malformed");
    let mut reader = Reader(data);
    let export = reader
        .string()
        .filter(|name| name.len() <= MAX_STRING)
        .ok_or(MALFORMED)?;
    let count = reader.u32().ok_or(MALFORMED)?;
    if count > MAX_QUERIES {
        return Err((rep::ERR_TOO_BIG, "too many metadata queries"));
    }
    let mut queries = Queries {
        export,
        count,
        allocation: false,
        wildcard: false,
    };
    for _ in 0..count {
        let query = reader
            .string()
            .filter(|query| query.len() <= MAX_STRING)
            .ok_or(MALFORMED)?;
        // Contexts and namespaces of others are to be ignored.
        queries.allocation |= query == ALLOCATION_CONTEXT;
        queries.wildcard |= query == b"base:";
    }
    if reader.is_empty() {
        Ok(queries)
    } else {
        Err(MALFORMED)
    }
}

#[cfg(test)]
mod tests;
