//! `~SEQ(var, start, step, end)` and `~LST(var, value, ...)` before a line: which variables take
//! which values, one round after the other.

/// Rounds of one repetition.
const ROUNDS_MAX: usize = 65_536;

/// A repetition and the line that is repeated.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Repetition<'t> {
    pub(super) names: Vec<String>,
    /// A list of values, one for each name, a round.
    pub(super) values: Vec<Vec<String>>,
    pub(super) rest: &'t str,
}

/// Reads what stands before the line.
pub(super) fn read(text: &str) -> Result<Repetition<'_>, String> {
    let malformed = || "~SEQ or ~LST is not closed by a bracket".to_owned();
    let (head, rest) = text.split_once('(').ok_or_else(malformed)?;
    let (inside, rest) = rest.split_once(')').ok_or_else(malformed)?;
    let (names, values) = match head.trim() {
        "~SEQ" => sequence(inside, decimal)?,
        "~SEQx" => sequence(inside, |number| format!("{number:x}"))?,
        "~LST" => list(inside)?,
        other => return Err(format!("`{other}` is neither ~SEQ nor ~LST")),
    };
    Ok(Repetition { names, values, rest: rest.trim() })
}

fn decimal(number: i64) -> String {
    number.to_string()
}

type Rounds = (Vec<String>, Vec<Vec<String>>);

fn sequence(inside: &str, shown: fn(i64) -> String) -> Result<Rounds, String> {
    let parts: Vec<&str> = inside.split(',').map(str::trim).collect();
    let wrong = || format!("`~SEQ({inside})` wants a name and numbers: (NAME, START, STEP, END)");
    let (name, numbers) = parts.split_first().ok_or_else(wrong)?;
    let numbers: Option<Vec<i64>> = numbers.iter().map(|text| number(text)).collect();
    let (start, step, end) = match numbers.ok_or_else(wrong)?[..] {
        [end] => (if end > 0 { 1 } else { -1 }, None, end),
        [start, end] => (start, None, end),
        [start, step, end] => (start, Some(step), end),
        _ => return Err(wrong()),
    };
    let step = step.unwrap_or(if end >= start { 1 } else { -1 });
    if step == 0 || (end > start) != (step > 0) && end != start {
        return Err(format!("`~SEQ({inside})` never comes to its end"));
    }
    let mut values = Vec::new();
    let mut at = start;
    while (step > 0 && at <= end) || (step < 0 && at >= end) {
        if values.len() >= ROUNDS_MAX {
            return Err(format!("`~SEQ({inside})` has more than {ROUNDS_MAX} rounds"));
        }
        values.push(vec![shown(at)]);
        at = at.saturating_add(step);
        if at == i64::MAX || at == i64::MIN {
            break;
        }
    }
    Ok((vec![name.trim_start_matches('$').to_owned()], values))
}

fn number(text: &str) -> Option<i64> {
    let (sign, digits) = match text.strip_prefix('-') {
        Some(digits) => (-1, digits),
        None => (1, text),
    };
    let value = match digits.strip_prefix("0x") {
        Some(hex) => u32::from_str_radix(hex, 16).ok()?,
        None => digits.parse::<u32>().ok()?,
    };
    Some(sign * i64::from(value))
}

/// Values, in braces where there are several names.
fn list(inside: &str) -> Result<Rounds, String> {
    let mut parts = braced(inside).into_iter();
    let names = parts.next().unwrap_or_default();
    let values: Vec<Vec<String>> = parts.collect();
    if names.iter().all(String::is_empty) || values.is_empty() {
        return Err(format!("`~LST({inside})` wants a name and values"));
    }
    if let Some(odd) = values.iter().find(|round| round.len() != names.len()) {
        let (given, wanted) = (odd.len(), names.len());
        return Err(format!("`~LST({inside})` has {given} values for {wanted} names"));
    }
    Ok((names, values))
}

/// `a, {b,c}` as [[a], [b, c]].
fn braced(text: &str) -> Vec<Vec<String>> {
    let mut parts = Vec::new();
    let mut rest = text.trim();
    while !rest.is_empty() {
        let (part, after) = match rest.strip_prefix('{').and_then(|rest| rest.split_once('}')) {
            Some((inner, after)) => {
                let all = inner.split(',').map(|one| one.trim().to_owned()).collect();
                (all, after.trim_start().strip_prefix(',').unwrap_or(after))
            }
            None => {
                let (one, after) = rest.split_once(',').unwrap_or((rest, ""));
                (vec![one.trim().to_owned()], after)
            }
        };
        parts.push(part);
        rest = after.trim();
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(text: &str) -> Vec<String> {
        read(text).unwrap().values.into_iter().map(|round| round.join(" ")).collect()
    }

    #[test]
    fn sequences_count_up_and_down_and_in_hexadecimal() {
        assert_eq!(values("~SEQ(A, 0, 3) x"), ["0", "1", "2", "3"]);
        assert_eq!(values("~SEQ(A, 3, 1) x"), ["3", "2", "1"]);
        assert_eq!(values("~SEQ(A, 2) x"), ["1", "2"]);
        assert_eq!(values("~SEQx(A, 0x90, 0x10, 0xb0) x"), ["90", "a0", "b0"]);
    }

    #[test]
    fn lists_take_one_value_or_several_a_round() {
        assert_eq!(values("~LST(A, 1, 2) x"), ["1", "2"]);
        let two = read("~LST({IP, IP1}, {10,1},{20,4}) ip ${IP}").unwrap();
        assert_eq!((two.names, two.rest), (vec!["IP".into(), "IP1".into()], "ip ${IP}"));
        assert_eq!(two.values, [["10", "1"], ["20", "4"]]);
    }

    #[test]
    fn what_does_not_end_or_fit_is_refused() {
        for text in [
            "~SEQ(A, 1",
            "~SEQ(A)",
            "~SEQ(A, 0, 0, 5) x",
            "~SEQ(A, 0, -1, 5) x",
            "~SEQ(A, 0, 4294967295) x",
            "~LST(A) x",
            "~LST({A,B}, {1}) x",
            "~SEQy(A, 1) x",
        ] {
            assert!(read(text).is_err(), "{text}");
        }
    }
}
