//! The durable history of a resource on this node: one JSON object a line.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::core::Record;

/// At this size the file becomes the older one (`.1`), which replaces the one before: at most two are kept.
const ROTATE_AT_BYTES: u64 = 1 << 20;

pub struct History {
    path: PathBuf,
    node: String,
    file: File,
    len: u64,
    rotate_at: u64,
}

#[derive(serde::Serialize)]
struct Line<'a> {
    time: String,
    node: &'a str,
    what: &'a str,
    text: &'a str,
    by: Option<&'a str>,
    peer: Option<&'a str>,
    fields: BTreeMap<&'a str, &'a str>,
}

impl History {
    /// Opens or makes the file, and its folder. A last line that a crash has torn is closed, so that the next one
    /// stands alone; a reader skips it.
    ///
    /// # Errors
    /// What the system says.
    pub fn open(path: &Path, node: &str) -> io::Result<History> {
        History::rotating_at(path, node, ROTATE_AT_BYTES)
    }

    fn rotating_at(path: &Path, node: &str, rotate_at: u64) -> io::Result<History> {
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)?;
        }
        let (file, len) = open_line(path)?;
        Ok(History {
            path: path.to_owned(),
            node: node.to_owned(),
            file,
            len,
            rotate_at,
        })
    }

    /// Appends a record; it is stable when this returns.
    ///
    /// # Errors
    /// What the system says. Part of a line may be there then; the next one begins anew.
    pub fn append(&mut self, record: &Record, now: SystemTime) -> io::Result<()> {
        if self.len >= self.rotate_at {
            self.rotate()?;
        }
        let line = Line {
            time: utc(now),
            node: &self.node,
            what: record.what,
            text: &record.text,
            by: record.by.as_deref(),
            peer: record.peer.as_deref(),
            fields: record
                .fields
                .iter()
                .map(|(name, value)| (*name, value.as_str()))
                .collect(),
        };
        let mut bytes = serde_json::to_vec(&line).expect("text has a JSON form");
        bytes.push(b'\n');
        let written = self.file.write_all(&bytes).and_then(|()| self.file.sync_data());
        match written {
            Ok(()) => self.len += bytes.len() as u64,
            // After a failed sync nobody knows what the file holds: it is looked at anew.
            Err(_) => (self.file, self.len) = open_line(&self.path)?,
        }
        written
    }

    fn rotate(&mut self) -> io::Result<()> {
        let mut older = self.path.clone().into_os_string();
        older.push(".1");
        fs::rename(&self.path, older)?;
        (self.file, self.len) = open_line(&self.path)?;
        Ok(())
    }
}

/// The file, at the beginning of a line, its name durable; and its length in bytes.
fn open_line(path: &Path) -> io::Result<(File, u64)> {
    let mut file = OpenOptions::new()
        .read(true)
        .append(true)
        .create(true)
        .mode(0o640)
        .open(path)?;
    let mut len = file.metadata()?.len();
    if len > 0 {
        let mut last = [0];
        file.seek(SeekFrom::End(-1))?;
        file.read_exact(&mut last)?;
        if last != *b"\n" {
            file.write_all(b"\n")?;
            len += 1;
        }
    }
    file.sync_all()?;
    if let Some(folder) = path.parent() {
        File::open(folder)?.sync_all()?;
    }
    Ok((file, len))
}

/// RFC 3339 in UTC, with milliseconds.
fn utc(time: SystemTime) -> String {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    let (days, second) = (since.as_secs() / 86_400, since.as_secs() % 86_400);
    // Years that begin in March have their leap day last; eras of 400 of them are all alike.
    let shifted = days + 719_468;
    let (era, day) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day_of_year = day - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let from_march = (5 * day_of_year + 2) / 153;
    let month = if from_march < 10 {
        from_march + 3
    } else {
        from_march - 9
    };
    format!(
        "{:04}-{month:02}-{:02}T{:02}:{:02}:{:02}.{:03}Z",
        era * 400 + year_of_era + u64::from(month <= 2),
        day_of_year - (153 * from_march + 2) / 5 + 1,
        second / 3600,
        second / 60 % 60,
        second % 60,
        since.subsec_millis(),
    )
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn record(text: &str) -> Record {
        Record {
            what: "role.promoted",
            text: text.into(),
            by: Some("root via blockpair promote".into()),
            peer: None,
            fields: vec![("forced", "true".into())],
        }
    }

    fn lines(path: &Path) -> Vec<String> {
        fs::read_to_string(path)
            .unwrap()
            .lines()
            .map(str::to_owned)
            .collect()
    }

    #[test]
    fn a_record_is_a_line_with_who_what_and_when() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("history/r0.jsonl");
        let mut history = History::open(&path, "a").unwrap();
        let now = UNIX_EPOCH + Duration::from_millis(1_709_208_245_067);
        history.append(&record("a \"quoted\"\ntext"), now).unwrap();
        let lines = lines(&path);
        assert_eq!(lines.len(), 1);
        let line: serde_json::Value = serde_json::from_str(&lines[0]).unwrap();
        assert_eq!(
            line,
            serde_json::json!({
                "time": "2024-02-29T12:04:05.067Z", "node": "a", "what": "role.promoted",
                "text": "a \"quoted\"\ntext", "by": "root via blockpair promote", "peer": null,
                "fields": {"forced": "true"},
            })
        );
    }

    #[test]
    fn a_torn_line_stays_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("r0.jsonl");
        fs::write(&path, "{\"time\":\"2024\n{\"ti").unwrap();
        let mut history = History::open(&path, "a").unwrap();
        history.append(&record("after"), UNIX_EPOCH).unwrap();
        let lines = lines(&path);
        assert_eq!(lines.len(), 3);
        assert_eq!(lines[1], "{\"ti");
        assert!(lines[2].contains("\"after\""));
    }

    #[test]
    fn two_files_at_most_of_a_bounded_size() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("r0.jsonl");
        let mut history = History::rotating_at(&path, "a", 1000).unwrap();
        for n in 0..100 {
            history.append(&record(&format!("n{n}")), UNIX_EPOCH).unwrap();
        }
        let older = folder.path().join("r0.jsonl.1");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2);
        for file in [&path, &older] {
            assert!(fs::metadata(file).unwrap().len() < 1300);
        }
        let kept: Vec<String> = [lines(&older), lines(&path)].concat();
        let first = 100 - kept.len();
        for (n, line) in kept.iter().enumerate() {
            assert!(line.contains(&format!("\"n{}\"", first + n)), "{line}");
        }
    }

    #[test]
    fn the_calendar() {
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_399, "2000-02-28T23:59:59.000Z"),
            (951_782_400, "2000-02-29T00:00:00.000Z"),
            (1_767_225_599, "2025-12-31T23:59:59.000Z"),
            (4_107_542_400, "2100-03-01T00:00:00.000Z"),
        ] {
            assert_eq!(utc(UNIX_EPOCH + Duration::from_secs(seconds)), text);
        }
    }
}
