//! Where words and data go: data to standard output, words for people to standard error.

#![expect(clippy::print_stderr, reason = "this is the one place that prints")]

use std::io::Write;

/// A line of data.
pub fn data(line: &str) {
    let mut out = std::io::stdout().lock();
    // A reader that went away (`| head`) is no error of ours.
    let _ = writeln!(out, "{line}");
}

/// Bytes of data as they are.
pub fn raw(bytes: &[u8]) {
    let mut out = std::io::stdout().lock();
    let _ = out.write_all(bytes).and_then(|()| out.flush());
}

/// A line for people.
pub fn say(line: &str) {
    eprintln!("{line}");
}

/// Words for people without a line's end, such as a question.
pub fn ask(text: &str) {
    eprint!("{text}");
}

/// A table with a head, columns as wide as their widest cell.
pub fn table(head: &[&str], rows: &[Vec<String>]) {
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count());
        cells.chain([head[column].len()]).max().unwrap_or(0)
    };
    let line = |cells: &[String]| {
        let padded = cells.iter().enumerate().map(|(column, cell)| format!("{cell:<width$}", width = width(column)));
        padded.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    data(&line(&head.iter().map(|cell| (*cell).to_owned()).collect::<Vec<_>>()));
    for row in rows {
        data(&line(row));
    }
}
