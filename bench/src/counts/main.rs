//! How many instructions the packet path takes for a packet, mode by mode, against kept figures.
//!
//! Unlike times, counts do not wobble with what else a machine does. Callgrind counts what runs
//! below `scene::counted_burst`, and nothing else: neither start-up nor the making of frames.
//! scripts/check-counts builds and runs this.

mod callgrind;
mod cases;
mod figures;
mod scene;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use callgrind::Outcome;
use clap::{Parser, Subcommand};
use figures::{Kept, Setting};

#[derive(Debug, Parser)]
#[command(name = "gyre-counts", about = "Count the packet path's instructions")]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Count by callgrind and compare with the kept figures; exit 3 where they do not compare
    Check {
        /// The kept figures
        #[arg(long, value_name = "FILE")]
        file: PathBuf,
        /// What `rustc --version` says of the compiler that built this
        #[arg(long, value_name = "VERSION")]
        rustc: String,
        /// Keep what is counted now
        #[arg(long)]
        accept: bool,
    },
    /// Send the packets that are counted, and say how many; what callgrind runs
    Run {
        /// Only cases whose name contains this
        #[arg(long, value_name = "NAME")]
        only: Option<String>,
    },
}

fn main() -> anyhow::Result<ExitCode> {
    match Args::parse().command {
        Command::Run { only } => {
            println!("{}", callgrind::FEATURES_WORD.to_owned() + &features());
            for case in cases::all() {
                if only.as_ref().is_none_or(|only| case.name().contains(only)) {
                    let packets = scene::play(&case).with_context(|| case.name())?;
                    println!("{} {packets}", scene::case_ends(&case.name()));
                }
            }
            Ok(ExitCode::SUCCESS)
        }
        Command::Check { file, rustc, accept } => check(&file, rustc, accept),
    }
}

fn check(file: &PathBuf, rustc: String, accept: bool) -> anyhow::Result<ExitCode> {
    let not_run = |why: String| {
        println!("NOT RUN: instruction counts: {why}");
        Ok(ExitCode::from(3))
    };
    let taken = match callgrind::count()? {
        Outcome::Counted(taken) => taken,
        Outcome::Impossible(why) => return not_run(why),
    };
    let setting = Setting {
        rustc,
        target: std::env::consts::ARCH.to_owned() + "-" + std::env::consts::OS,
        built_with: built_with(),
        features: taken.features,
        valgrind: taken.valgrind,
    };
    if accept {
        let kept = Kept { tolerance_percent: figures::TOLERANCE_PERCENT, setting };
        std::fs::write(file, kept.text(&taken.instructions))
            .with_context(|| format!("writing {}", file.display()))?;
        println!("{} cases kept in {}", taken.instructions.len(), file.display());
        return Ok(ExitCode::SUCCESS);
    }
    let text = std::fs::read_to_string(file).with_context(|| {
        format!("reading {}; scripts/check-counts --accept makes it", file.display())
    })?;
    let (kept, before) = Kept::read(&text).with_context(|| file.display().to_string())?;
    if let Some(why) = kept.setting.differs(&setting) {
        return not_run(why);
    }
    let comparison = figures::compare(&before, &taken.instructions, kept.tolerance_percent);
    print!("{}", comparison.text);
    Ok(if comparison.is_within { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Which instructions code that asks at run time finds: here valgrind's processor.
#[cfg(target_arch = "x86_64")]
fn features() -> String {
    let found = [
        ("sse4.2", is_x86_feature_detected!("sse4.2")),
        ("avx2", is_x86_feature_detected!("avx2")),
        ("bmi1", is_x86_feature_detected!("bmi1")),
        ("bmi2", is_x86_feature_detected!("bmi2")),
        ("lzcnt", is_x86_feature_detected!("lzcnt")),
        ("popcnt", is_x86_feature_detected!("popcnt")),
        ("aes", is_x86_feature_detected!("aes")),
        ("avx512f", is_x86_feature_detected!("avx512f")),
    ];
    let names: Vec<&str> = found.iter().filter(|(_, has)| *has).map(|(name, _)| *name).collect();
    names.join(" ")
}

#[cfg(not(target_arch = "x86_64"))]
fn features() -> String {
    String::new()
}

/// Which of these the compiler was allowed to use everywhere (`-C target-cpu`), and how it was told
/// to build.
fn built_with() -> String {
    let allowed = [
        ("sse4.2", cfg!(target_feature = "sse4.2")),
        ("avx2", cfg!(target_feature = "avx2")),
        ("bmi2", cfg!(target_feature = "bmi2")),
        ("avx512f", cfg!(target_feature = "avx512f")),
        ("debug assertions", cfg!(debug_assertions)),
    ];
    let names: Vec<&str> = allowed.iter().filter(|(_, has)| *has).map(|(name, _)| *name).collect();
    names.join(" ")
}
