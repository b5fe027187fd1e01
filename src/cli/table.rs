//! Aligned columns of plain text.

use std::io::{self, Write};

/// Which way a column leans.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Align {
    /// Words.
    Left,
    /// Numbers.
    Right,
}

/// Rows under a heading, two spaces between columns.
#[derive(Debug)]
pub struct Table {
    columns: Vec<Align>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table with these headings; one that starts with `#` stands over numbers.
    pub fn new(headings: &[&str]) -> Self {
        let align = |h: &&str| if h.starts_with('#') { Align::Right } else { Align::Left };
        let names = headings.iter().map(|h| h.trim_start_matches('#').to_owned()).collect();
        Table { columns: headings.iter().map(align).collect(), rows: vec![names] }
    }

    /// Adds a row; a missing value shows as `-`.
    pub fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        let shown = |cell: String| if cell.is_empty() { "-".to_owned() } else { cell };
        self.rows.push(cells.into_iter().map(shown).collect());
    }

    /// Writes headings and rows.
    pub fn write(&self, out: &mut impl Write) -> io::Result<()> {
        let width = |at: usize| {
            self.rows.iter().filter_map(|row| row.get(at)).map(|c| c.chars().count()).max()
        };
        let widths: Vec<usize> = (0..self.columns.len()).map(|at| width(at).unwrap_or(0)).collect();
        for row in &self.rows {
            let mut line = String::new();
            for ((cell, width), align) in row.iter().zip(&widths).zip(&self.columns) {
                let padded = match align {
                    Align::Left => format!("{cell:<width$}  "),
                    Align::Right => format!("{cell:>width$}  "),
                };
                line.push_str(&padded);
            }
            writeln!(out, "{}", line.trim_end())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_lean_left_and_numbers_right() {
        let mut table = Table::new(&["NAME", "#COUNT"]);
        table.row(["a".into(), "7".into()]);
        table.row([String::new(), "1234567".into()]);
        let mut out = Vec::new();
        table.write(&mut out).unwrap();
        let wanted = "NAME    COUNT\na           7\n-     1234567\n";
        assert_eq!(String::from_utf8(out).unwrap(), wanted);
    }
}
