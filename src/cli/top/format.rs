//! Numbers as a narrow column takes them.

/// At most five characters: `999`, `1.5k`, `15k`, `150k`, `1.5M`.
pub fn short(number: f64) -> String {
    const UNITS: [&str; 6] = ["", "k", "M", "G", "T", "P"];
    let mut scaled = number.max(0.0);
    let mut unit = 0;
    while scaled >= 999.5 && unit + 1 < UNITS.len() {
        scaled /= 1000.0;
        unit += 1;
    }
    let suffix = UNITS[unit];
    if unit == 0 || scaled >= 9.95 {
        format!("{scaled:.0}{suffix}")
    } else {
        format!("{scaled:.1}{suffix}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_stay_short() {
        for (number, text) in [
            (0.0, "0"),
            (-3.0, "0"),
            (999.0, "999"),
            (999.6, "1.0k"),
            (1_540.0, "1.5k"),
            (9_960.0, "10k"),
            (999_600.0, "1.0M"),
            (67_000_000_000.0, "67G"),
            (f64::from(u32::MAX) * 1e12, "4294967P"),
        ] {
            assert_eq!(short(number), text, "{number}");
        }
    }
}
