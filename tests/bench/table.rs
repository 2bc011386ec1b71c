//! The result: medians, and how this program compares with each of the other servers.

use std::fmt::{self, Display, Formatter};

/// Its first column is this program, every other one a server that it is compared with.
pub struct Table {
    pub servers: Vec<String>,
    pub rows: Vec<Row>,
}

pub struct Row {
    name: &'static str,
    /// For each server what was measured, one value in each round.
    pub slices: Vec<Vec<f64>>,
}

impl Row {
    pub fn new(name: &'static str, servers: usize) -> Row {
        Row { name, slices: vec![Vec::new(); servers] }
    }

    /// How many times the value of another server this program reaches. Both values of a pair are from the same round,
    /// so that whatever else the machine did meanwhile weighs on both.
    fn ratio(&self, other: usize) -> Option<f64> {
        let ratios = self.slices[0].iter().zip(&self.slices[other]).map(|(own, other)| own / other);
        median(ratios.collect())
    }
}

impl Display for Table {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> fmt::Result {
        let (own, others) = self.servers.split_first().ok_or(fmt::Error)?;
        write!(formatter, "{:<34}{own:>12}", "")?;
        for other in others {
            write!(formatter, "{other:>16}{:>9}", "ratio")?;
        }
        for row in &self.rows {
            write!(formatter, "\n{:<34}{:>12}", row.name, shown(median(row.slices[0].clone())))?;
            for other in 1..self.servers.len() {
                let ratio = row.ratio(other).map_or_else(|| NOT_KNOWN.to_owned(), |ratio| format!("{ratio:.2}"));
                write!(formatter, "{:>16}{ratio:>9}", shown(median(row.slices[other].clone())))?;
            }
        }
        writeln!(
            formatter,
            "\n\nEach value is the median of the rounds; a ratio is this program's value divided by the"
        )?;
        write!(
            formatter,
            "other's, the median of the rounds too. Over 1 is better in 1/s and MB/s, under 1 in ms, µs and MB."
        )
    }
}

fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied()
}

fn shown(value: Option<f64>) -> String {
    match value {
        Some(value) if value >= 100.0 => format!("{value:.0}"),
        Some(value) => format!("{value:.1}"),
        None => NOT_KNOWN.to_owned(),
    }
}

const NOT_KNOWN: &str = "-";
