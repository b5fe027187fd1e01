//! Kept figures: the file, and what a change of them is told as.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde::Deserialize;

/// How far a figure may move. Code that moves within a function changes a packet's count by a
/// register or two; a lookup too many is ten times that.
pub const TOLERANCE_PERCENT: f64 = 4.0;

/// How to keep what was counted.
const REMEDY: &str = "If that is meant, keep the new figures by \
    `scripts/check-counts --accept`, and say in the commit what they buy.";

/// Instructions a packet, by case.
pub type Instructions = BTreeMap<String, f64>;

/// What counts depend on beside the code.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Setting {
    /// Version of the compiler.
    pub rustc: String,
    /// Architecture and system.
    pub target: String,
    /// Processor features that the whole program was built with, and debug assertions.
    pub built_with: String,
    /// Processor features found at run time.
    pub features: String,
    /// Version of valgrind, whose processor it is.
    pub valgrind: String,
}

/// The file but for its figures.
#[derive(Clone, Debug, Deserialize)]
pub struct Kept {
    /// How far a figure may move, in percent.
    pub tolerance_percent: f64,
    /// What they were taken with.
    pub setting: Setting,
}

#[derive(Deserialize)]
struct Whole {
    #[serde(flatten)]
    kept: Kept,
    instructions: Instructions,
}

/// What a comparison found, for people.
pub struct Comparison {
    /// A line for each case, and a closing word.
    pub text: String,
    /// Whether nothing moved too far.
    pub is_within: bool,
}

impl Setting {
    /// Why counts made `now` say nothing about counts made with this.
    pub fn differs(&self, now: &Setting) -> Option<String> {
        let parts = [
            ("rustc", &self.rustc, &now.rustc),
            ("target", &self.target, &now.target),
            ("built with", &self.built_with, &now.built_with),
            ("processor features", &self.features, &now.features),
            ("valgrind", &self.valgrind, &now.valgrind),
        ];
        let differing: Vec<String> = parts
            .iter()
            .filter(|(_, kept, now)| kept != now)
            .map(|(what, kept, now)| format!("{what} was \"{kept}\" and is \"{now}\""))
            .collect();
        (!differing.is_empty()).then(|| {
            let list = differing.join(", ");
            format!("{list}; where the code is as it should be, scripts/check-counts --accept")
        })
    }
}

impl Kept {
    /// Reads the file.
    pub fn read(text: &str) -> anyhow::Result<(Kept, Instructions)> {
        let whole: Whole = toml_edit::de::from_str(text)?;
        Ok((whole.kept, whole.instructions))
    }

    /// The file with these figures.
    pub fn text(&self, instructions: &Instructions) -> String {
        let Setting { rustc, target, built_with, features, valgrind } = &self.setting;
        let mut text = format!(
            "# Instructions of process_burst a packet, in bursts of 32. Written by \
             scripts/check-counts --accept.\ntolerance_percent = {:.1}\n\n[setting]\n",
            self.tolerance_percent
        );
        let fields = [
            ("rustc", rustc),
            ("target", target),
            ("built_with", built_with),
            ("features", features),
            ("valgrind", valgrind),
        ];
        for (name, value) in fields {
            // Writing to a string cannot fail.
            let _ = writeln!(text, "{name} = \"{value}\"");
        }
        text += "\n[instructions]\n";
        for (name, count) in instructions {
            let _ = writeln!(text, "{name} = {count:.1}");
        }
        text
    }
}

/// Holds what was counted against what was kept.
pub fn compare(kept: &Instructions, taken: &Instructions, tolerance: f64) -> Comparison {
    let mut text =
        format!("{:<24} {:>8} {:>8} {:>8}\n", "instructions a packet", "kept", "now", "");
    let mut is_within = true;
    for name in kept.keys().chain(taken.keys().filter(|name| !kept.contains_key(*name))) {
        let (before, now) = (kept.get(name), taken.get(name));
        let (word, fits) = verdict(before, now, tolerance);
        is_within &= fits;
        let show = |count: Option<&f64>| count.map_or("-".into(), |count| format!("{count:.1}"));
        let _ = writeln!(text, "{name:<24} {:>8} {:>8} {word}", show(before), show(now));
    }
    text += &if is_within {
        format!("All {} cases within {tolerance} % of what was kept.\n", taken.len())
    } else {
        format!("Beyond {tolerance} %, marked by an arrow. {REMEDY}\n")
    };
    Comparison { text, is_within }
}

/// The words for one case, and whether it may stay so.
fn verdict(before: Option<&f64>, now: Option<&f64>, tolerance: f64) -> (String, bool) {
    let (before, now) = match (before, now) {
        (Some(before), Some(now)) => (*before, *now),
        (None, _) => return ("  <- new: no figure is kept".into(), false),
        (_, None) => return ("  <- gone: no such case any more".into(), false),
    };
    let percent = (now / before - 1.0) * 100.0;
    let fits = percent.abs() <= tolerance;
    let mark = match (fits, percent > 0.0) {
        (true, _) => "",
        (false, true) => "  <- more",
        (false, false) => "  <- fewer: keep the gain",
    };
    (format!("{percent:>+7.1} %{mark}"), fits)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn setting() -> Setting {
        let text = |text: &str| text.to_owned();
        Setting {
            rustc: text("rustc 1.89.0"),
            target: text("x86_64-linux"),
            built_with: String::new(),
            features: text("avx2"),
            valgrind: text("valgrind-3.19.0"),
        }
    }

    fn counts(figures: &[(&str, f64)]) -> Instructions {
        figures.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect()
    }

    #[test]
    fn what_is_kept_is_read_again() {
        let figures = counts(&[("dr-udp4", 101.5), ("fullnat-out-tcp6", 99.0)]);
        let kept = Kept { tolerance_percent: 4.0, setting: setting() };
        let (read, back) = Kept::read(&kept.text(&figures)).unwrap();
        assert_eq!((read.setting, back), (setting(), figures));
        assert!((read.tolerance_percent - 4.0).abs() < 1e-9);
    }

    #[test]
    fn a_figure_beyond_the_tolerance_fails_either_way_and_says_how_to_keep_it() {
        let kept = counts(&[("dr", 100.0), ("nat", 200.0)]);
        let within = compare(&kept, &counts(&[("dr", 103.9), ("nat", 192.1)]), 4.0);
        assert!(within.is_within && within.text.contains("All 2 cases"), "{}", within.text);
        let more = compare(&kept, &counts(&[("dr", 104.1), ("nat", 200.0)]), 4.0);
        assert!(!more.is_within && more.text.contains("+4.1 %  <- more"), "{}", more.text);
        assert!(more.text.contains("scripts/check-counts --accept"), "{}", more.text);
        let fewer = compare(&kept, &counts(&[("dr", 100.0), ("nat", 150.0)]), 4.0);
        assert!(!fewer.is_within && fewer.text.contains("-25.0 %  <- fewer"), "{}", fewer.text);
    }

    #[test]
    fn a_case_that_is_new_or_gone_fails() {
        let kept = counts(&[("dr", 100.0), ("nat", 200.0)]);
        let found = compare(&kept, &counts(&[("dr", 100.0), ("tun", 150.0)]), 4.0);
        assert!(!found.is_within);
        assert!(found.text.contains("<- new") && found.text.contains("<- gone"), "{}", found.text);
    }

    #[test]
    fn another_compiler_or_processor_does_not_compare() {
        assert_eq!(setting().differs(&setting()), None);
        let other = Setting { features: "".into(), rustc: "rustc 1.90.0".into(), ..setting() };
        let why = setting().differs(&other).unwrap();
        assert!(why.contains("rustc was \"rustc 1.89.0\" and is \"rustc 1.90.0\""), "{why}");
        assert!(why.contains("processor features was \"avx2\" and is \"\""), "{why}");
    }
}
