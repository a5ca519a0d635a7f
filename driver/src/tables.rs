//! Plain tables: columns if the terminal is wide enough, otherwise one block of `name: value` for each row.

use std::io::{IsTerminal, Write};

/// A table to be printed.
pub(crate) struct Table {
    head: Vec<String>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table with these column names.
    pub(crate) fn new(head: &[&str]) -> Self {
        Self { head: head.iter().map(|h| (*h).to_owned()).collect(), rows: Vec::new() }
    }

    /// A table with these columns and rows.
    pub(crate) fn of(head: Vec<String>, rows: Vec<Vec<String>>) -> Self {
        Self { head, rows }
    }

    /// Adds a row with one cell for each column.
    pub(crate) fn row<const N: usize>(&mut self, cells: [String; N]) {
        self.rows.push(cells.into());
    }

    /// The table as text for a screen of `width` columns. Numbers are aligned right, words left.
    pub(crate) fn render(&self, width: usize) -> String {
        let columns = self.head.len();
        let cells = |c: usize| self.rows.iter().filter_map(move |r| r.get(c));
        let widths: Vec<usize> = (0..columns)
            .map(|c| cells(c).chain([&self.head[c]]).map(|s| s.chars().count()).max().unwrap_or(0))
            .collect();
        if widths.iter().sum::<usize>() + 2 * columns.saturating_sub(1) > width {
            return self.blocks();
        }
        let right: Vec<bool> =
            (0..columns).map(|c| cells(c).all(|s| is_number(s)) && cells(c).next().is_some()).collect();
        let mut text = String::new();
        for row in std::iter::once(&self.head).chain(&self.rows) {
            let mut line = String::new();
            for (c, cell) in row.iter().enumerate() {
                let gap = " ".repeat(widths[c] - cell.chars().count());
                if c > 0 {
                    line.push_str("  ");
                }
                line.push_str(&if right[c] { gap + cell } else { cell.clone() + &gap });
            }
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text
    }

    fn blocks(&self) -> String {
        let name_width = self.head.iter().map(|h| h.chars().count()).max().unwrap_or(0);
        let block = |row: &Vec<String>| -> String {
            self.head.iter().zip(row).map(|(h, cell)| format!("{h:name_width$}  {cell}\n")).collect()
        };
        self.rows.iter().map(block).collect::<Vec<_>>().join("\n")
    }

    /// Writes the table to stdout, as wide as the terminal allows; of any width if stdout is not a terminal.
    pub(crate) fn print(&self) -> std::io::Result<()> {
        let width = screen_width().unwrap_or(usize::MAX);
        std::io::stdout().lock().write_all(self.render(width).as_bytes())
    }
}

/// How many columns the terminal has; `None` if stdout is not a terminal.
pub(crate) fn screen_width() -> Option<usize> {
    let (width, _) = terminal_size::terminal_size().filter(|_| std::io::stdout().is_terminal())?;
    Some(width.0.into())
}

/// Whether a cell belongs to a column of numbers: it starts like a number, or stands for a missing one.
fn is_number(cell: &str) -> bool {
    matches!(cell, "-" | "–") || cell.trim_start_matches(['+', '-']).starts_with(|c: char| c.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Table {
        let mut t = Table::new(&["model", "mean"]);
        t.row(["M1".into(), "2.5".into()]);
        t.row(["M10".into(), "12.5".into()]);
        t
    }

    #[test]
    fn numbers_stand_right_and_words_left() {
        assert_eq!(sample().render(80), "model  mean\nM1      2.5\nM10    12.5\n");
    }

    #[test]
    fn a_narrow_screen_gets_blocks() {
        assert_eq!(sample().render(10), "model  M1\nmean   2.5\n\nmodel  M10\nmean   12.5\n");
    }
}
