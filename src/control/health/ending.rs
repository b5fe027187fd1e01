//! How a program ended and what it said, in words for a reason or a log line.

use std::process::ExitStatus;

/// `exit status 3`, `signal 9 (SIGKILL)`: how it ended.
pub(super) fn words(status: ExitStatus) -> String {
    status.to_string().replacen(": ", " ", 1)
}

/// What a program wrote, in one line: lines are parted by ` / `, what cannot be shown is left out.
pub(super) fn one_line(written: &[u8]) -> String {
    let text = String::from_utf8_lossy(written);
    let shown = text.lines().map(shown).filter(|line| !line.is_empty());
    shown.collect::<Vec<String>>().join(" / ")
}

/// A line without what would play with a terminal.
pub(super) fn shown(line: &str) -> String {
    let printable = |c: &char| !c.is_control();
    line.trim().chars().filter(printable).collect::<String>().trim().to_owned()
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;

    use super::*;

    #[test]
    fn endings_name_code_or_signal_and_output_is_one_line() {
        assert_eq!(words(ExitStatus::from_raw(3 << 8)), "exit status 3");
        assert_eq!(words(ExitStatus::from_raw(9)), "signal 9 (SIGKILL)");
        let written = b"no route\r\n\n \x1b[31mtry again\xff\n";
        assert_eq!(one_line(written), "no route / [31mtry again\u{fffd}");
        assert_eq!(one_line(b"\n"), "");
    }
}
