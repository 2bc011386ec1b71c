//! Which bytes of a file have gone out, over however many answers.

use crate::text::in_bytes;

#[derive(Default)]
pub struct Coverage {
    pub file_bytes: u64,
    /// First byte, and the one behind the last; in order, and none touches another.
    ranges: Vec<(u64, u64)>,
}

impl Coverage {
    /// From the first byte to the one behind the last.
    pub fn add(&mut self, start: u64, end: u64) {
        let first = self.ranges.partition_point(|range| range.1 < start);
        let behind = self.ranges.partition_point(|range| range.0 <= end);
        let joined = &self.ranges[first..behind];
        let start = joined.first().map_or(start, |range| range.0.min(start));
        let end = joined.last().map_or(end, |range| range.1.max(end));
        self.ranges.splice(first..behind, [(start, end)]);
    }

    pub fn bytes(&self) -> u64 {
        self.ranges.iter().map(|(start, end)| end - start).sum()
    }

    pub fn has_all(&self) -> bool {
        self.bytes() == self.file_bytes
    }

    /// What is missing, in words.
    pub fn told(&self) -> String {
        let ranges = self.ranges.iter().filter(|(start, end)| start < end).take(MAX_TOLD);
        let ranges: Vec<String> = ranges.map(|(start, end)| format!("{start}-{}", end - 1)).collect();
        let dots = if self.ranges.len() > MAX_TOLD { ", ..." } else { "" };
        match ranges.as_slice() {
            [] => format!("none of its {} was fetched", in_bytes(self.file_bytes)),
            ranges => format!("only bytes {}{dots} of {} were fetched", ranges.join(", "), self.file_bytes),
        }
    }
}

/// So many ranges are told apart.
const MAX_TOLD: usize = 20;
