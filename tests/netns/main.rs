//! Black-box tests: the gyre binary between real clients and real servers in network namespaces.
//!
//! They need root. Without it every test is listed as ignored and says why, unless
//! GYRE_REQUIRE_NETNS=1 (scripts/test sets it where namespaces work) makes that a failure.
//! GYRE_KEEP_LAB=1 keeps configurations and logs. What can be told from inside a process is
//! tested there, not here.

mod appliance;
mod bad_frames;
mod bulk;
mod client_address;
mod director;
mod dns;
mod doctor;
mod field;
mod forwarding;
mod ftp;
mod health;
mod health_checks;
mod kernel_side;
mod lab;
mod ldirectord;
mod life;
mod link;
mod modes;
mod path_mtu;
mod persistence;
mod relay;
mod scripts;
mod server_set;
mod servers;
mod site;
mod synproxy;

use libtest_mimic::{Arguments, Failed, Trial};

/// A test and the name it is listed under.
pub type Case = (&'static str, fn());

fn trial((name, run): Case, missing: Option<&String>, required: bool) -> Trial {
    let reason = missing.cloned();
    let label = match &reason {
        Some(reason) if !required => format!("{name} (not run: {reason})"),
        _ => name.to_string(),
    };
    let body = move || match reason {
        Some(reason) => Err(Failed::from(reason)),
        None => {
            run();
            Ok(())
        }
    };
    Trial::test(label, body).with_ignored_flag(missing.is_some() && !required)
}

fn main() {
    let mut arguments = Arguments::from_args();
    // Each test loads both cores; two at a time would time each other out.
    arguments.test_threads = Some(1);
    let missing = lab::missing_privilege();
    let required = std::env::var("GYRE_REQUIRE_NETNS").is_ok_and(|value| value == "1");
    if let Some(reason) = &missing {
        eprintln!("tests/netns: not run: {reason}");
    }
    let cases = [
        relay::CASES,
        forwarding::CASES,
        modes::CASES,
        path_mtu::CASES,
        persistence::CASES,
        ftp::CASES,
        dns::CASES,
        doctor::CASES,
        health::CASES,
        health_checks::CASES,
        client_address::CASES,
        server_set::CASES,
        ldirectord::CASES,
        synproxy::CASES,
        bulk::CASES,
        bad_frames::CASES,
        kernel_side::CASES,
        life::CASES,
        appliance::CASES,
        scripts::CASES,
    ];
    let trials = cases.concat().into_iter().map(|case| trial(case, missing.as_ref(), required));
    libtest_mimic::run(&arguments, trials.collect()).exit();
}
