//! Counts of what a run, or many, went through.

use std::collections::BTreeMap;

#[derive(Clone, Debug, Default, serde::Serialize)]
pub struct Counts(BTreeMap<String, u64>);

impl Counts {
    pub fn add(&mut self, what: &str, count: u64) {
        match self.0.get_mut(what) {
            Some(sum) => *sum += count,
            None => drop(self.0.insert(what.to_owned(), count)),
        }
    }

    pub fn merge(&mut self, other: &Counts) {
        for (what, count) in &other.0 {
            self.add(what, *count);
        }
    }

    pub fn get(&self, what: &str) -> u64 {
        self.0.get(what).copied().unwrap_or(0)
    }

    /// For people: several to a line.
    pub fn text(&self) -> String {
        let items: Vec<String> = self
            .0
            .iter()
            .map(|(what, count)| format!("{count:>9} {what}"))
            .collect();
        let width = items.iter().map(String::len).max().unwrap_or(0);
        let lines: Vec<String> = items
            .chunks(3)
            .map(|row| {
                row.iter()
                    .map(|item| format!("{item:<width$}"))
                    .collect::<Vec<_>>()
                    .join(" ")
            })
            .map(|line| line.trim_end().to_owned())
            .collect();
        lines.join("\n")
    }
}
