//! What no recording shows: gyre's own options, and what it lacks.

use std::io::Read;
use std::process::{Command, Stdio};

use crate::director::{Answer, shared};

const NOTHING: (&str, &str) = ("", "");

fn texts(answer: &Answer) -> (&str, &str) {
    (&answer.stdout, &answer.stderr)
}

fn words(line: &str) -> Vec<&str> {
    line.split(' ').collect()
}

/// What gyre has beyond LVS goes by long options, is listed, saved and restored.
#[test]
fn gyres_own_options_are_listed_saved_and_restored() {
    let director = shared();
    for line in [
        "-A -t 10.1.0.1:80 -s rr --synproxy --local-address pool1",
        "-a -t 10.1.0.1:80 -r 10.2.0.11:8080 --fullnat -w 2",
        "-A -u 10.1.0.1:53 -s maglev",
    ] {
        let answer = director.run(&words(line));
        assert_eq!((answer.exit, texts(&answer)), (0, NOTHING), "{line}");
    }
    let rules = "-A -t 10.1.0.1:80 -s rr --synproxy --local-address pool1\n\
                 -a -t 10.1.0.1:80 -r 10.2.0.11:8080 --fullnat -w 2\n\
                 -A -u 10.1.0.1:53 -s maglev\n";
    assert_eq!(director.rules(), rules);
    let listed = director.run(&["-Ln"]).stdout;
    assert!(listed.contains("TCP  10.1.0.1:80 rr synproxy\n"), "{listed}");
    let row = "  -> 10.2.0.11:8080               FullNat 2      0          0         \n";
    assert!(listed.contains(row), "{listed}");
    director.reset(rules);
    assert_eq!(director.rules(), rules);
    // -E leaves what LVS does not know as it is, unless it is said.
    assert_eq!(director.run(&words("-E -t 10.1.0.1:80 -s wrr")).exit, 0);
    assert!(director.rules().contains("-s wrr --synproxy --local-address pool1\n"));
    assert_eq!(director.run(&words("-E -t 10.1.0.1:80 -s wrr --synproxy off")).exit, 0);
    assert!(director.rules().contains("-s wrr --local-address pool1\n"));
}

#[test]
fn gyres_own_options_are_nobody_elses() {
    let director = shared();
    for (line, exit, message) in [
        (
            "-A -t 10.1.0.1:80 --fullnat",
            2,
            "Illegal 'forwarding-method' option with the 'add-service' command\n",
        ),
        (
            "-a -t 10.1.0.1:80 -r 10.2.0.11 --fullnat -m",
            2,
            "multiple 'forwarding-method' options specified\n",
        ),
        ("-a -t 10.1.0.1:80 -r 10.2.0.11 --full", 255, "--full: unknown option\n"),
        ("-L --synproxy", 2, "Illegal 'synproxy' option with the 'list' command\n"),
        ("-A -t 10.1.0.1:80 --synproxy maybe", 2, "illegal synproxy specified\n"),
        (
            "-D -t 10.1.0.1:80 --local-address p",
            2,
            "Illegal 'local-address' option with the 'delete-service' command\n",
        ),
    ] {
        let answer = director.run(&words(line));
        assert_eq!((answer.exit, texts(&answer)), (exit, ("", message)), "{line}");
    }
}

/// What gyre lacks is refused with a word, and nothing changes.
#[test]
fn what_gyre_lacks_is_refused_in_so_many_words() {
    let director = shared();
    let rules = "-A -t 10.1.0.1:80 -s rr\n-a -t 10.1.0.1:80 -r 10.2.0.11:80 -g -w 1\n";
    director.reset(rules);
    for (line, message) in [
        ("--start-daemon master --mcast-interface lo", "connections are not synchronised yet"),
        ("-A --sctp-service 10.1.0.1:81", "SCTP is not supported"),
        ("-A -t 10.1.0.1:82 -p 60 -M 255.0.255.0", "all its ones in front"),
        ("-A -f 10", "[[mark]]"),
        ("-a -t 10.1.0.1:80 -r 10.2.0.12 --fullnat", "FULLNAT needs source addresses"),
        ("-A -t 10.1.0.1:83 --local-address nosuch", "there is no pool `nosuch`"),
    ] {
        let answer = director.run(&words(line));
        assert_eq!((answer.exit, answer.stdout.as_str()), (255, ""), "{line}");
        assert!(answer.stderr.starts_with("gyre: "), "{line}: {}", answer.stderr);
        assert!(answer.stderr.contains(message), "{line}: {}", answer.stderr);
        assert_eq!(director.rules(), rules, "{line}");
    }
    assert_eq!(texts(&director.run(&["-L", "--daemon"])), NOTHING);
}

/// Services that ipvsadm has no words for are listed, and said to be left out of rules.
#[test]
fn services_beyond_ipvsadms_words_are_shown_and_not_saved() {
    let director = shared();
    let range = r#"{"service":{"address":"10.1.0.1:8000-8010","scheduler":"rr"}}"#;
    assert_eq!(director.gyre(&["ctl", "service.add", range]).exit, 0);
    let group = r#"{"service":{"group":"web","match":[{"address":"10.1.0.2:80"}]}}"#;
    assert_eq!(director.gyre(&["ctl", "service.add", group]).exit, 0);
    let listed = director.run(&["-Ln"]).stdout;
    assert!(listed.contains("TCP  10.1.0.1:8000-8010 rr\n"), "{listed}");
    assert!(listed.ends_with("GRP  web wlc\n"), "{listed}");
    let saved = director.run(&["-Sn"]);
    assert_eq!((saved.exit, saved.stdout.as_str()), (0, ""));
    assert!(saved.stderr.contains("tcp 10.1.0.1:8000-8010 is left out"), "{}", saved.stderr);
    assert!(saved.stderr.contains("group web is left out"), "{}", saved.stderr);
    assert_eq!(director.run(&["-C"]).exit, 0);
    assert!(!director.run(&["-Ln"]).stdout.contains("10.1.0"));
}

/// A draining server takes no new flows: to ipvsadm's users it has weight 0, and -e brings it back.
#[test]
fn a_draining_server_has_weight_0_until_it_is_edited() {
    let director = shared();
    director.reset("-A -t 10.1.0.1:80 -s rr\n-a -t 10.1.0.1:80 -r 10.2.0.11:80 -m -w 5\n");
    let frame = {
        use crate::support::{CLIENT, from_client};
        let syn = from_client("10.0.0.9".parse().unwrap(), "10.1.0.1".parse().unwrap());
        let syn = syn.tcp(4000, 80).flags(gyre::wire::tcp::TcpFlags::SYN).build().to_vec();
        director.receive(CLIENT, vec![syn])
    };
    assert_eq!(frame.len(), 1);
    let drain = r#"{"service":"tcp 10.1.0.1:80","server":"10.2.0.11:80"}"#;
    assert_eq!(director.gyre(&["ctl", "server.remove", drain]).exit, 0);
    assert!(director.rules().contains("-r 10.2.0.11:80 -m -w 0\n"));
    assert_eq!(director.run(&words("-e -t 10.1.0.1:80 -r 10.2.0.11:80 -m -w 3")).exit, 0);
    assert!(director.rules().contains("-r 10.2.0.11:80 -m -w 3\n"));
    let gone = director.gyre(&["ctl", "connections.delete", "{\"all\":true}"]);
    assert_eq!(gone.exit, 0);
}

#[test]
fn without_a_director_ipvsadm_says_so() {
    let directory = tempfile::tempdir().unwrap();
    let run = |args: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_gyre"));
        command.arg("ipvsadm").args(args).env("GYRE_SOCKET", directory.path().join("none.sock"));
        let output = command.output().unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    let (code, message) = run(&["-Ln"]);
    assert_eq!(code, Some(2));
    assert!(message.starts_with("Can't initialize ipvs: gyre is not running"), "{message}");
    // What asks nothing of a director needs none.
    assert_eq!(run(&["-h"]), (Some(0), String::new()));
    assert_eq!(run(&["-v"]), (Some(0), String::new()));
    assert_eq!(run(&["-A"]).0, Some(2));
}

#[test]
fn the_subcommand_and_the_name_are_one() {
    let director = shared();
    director.reset("-A -t 10.1.0.1:80 -s rr\n");
    for args in [&["-Ln"][..], &["-h"], &["--", "-Ln"], &["-X"], &["-L", "-t", "10.1.0.9:1"]] {
        let by_name = director.run(args);
        assert_eq!(director.gyre(&[&["ipvsadm"], args].concat()), by_name, "{args:?}");
    }
}

#[test]
fn a_closed_pipe_ends_a_listing_quietly() {
    let director = shared();
    let rules: String = (1..200).map(|port| format!("-A -t 10.1.0.1:{port} -s rr\n")).collect();
    director.reset(&rules);
    let mut child = director
        .command("ipvsadm")
        .arg("-Ln")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let mut errors = String::new();
    child.stderr.take().unwrap().read_to_string(&mut errors).unwrap();
    assert_eq!((child.wait().unwrap().code(), errors.as_str()), (Some(0), ""));
}

/// Longer lists than one reply of the socket.
#[test]
fn connections_of_many_clients_are_all_listed() {
    use crate::support::{CLIENT, from_client};
    let director = shared();
    director.reset("-A -u 10.1.0.1:53 -s rr\n-a -u 10.1.0.1:53 -r 10.2.0.13:53 -g\n");
    let frame = |n: u16| {
        let client = [10, 0, (n >> 8) as u8, n as u8].into();
        from_client(client, "10.1.0.1".parse().unwrap())
            .udp(5000, 53)
            .payload(b"?")
            .build()
            .to_vec()
    };
    assert_eq!(director.receive(CLIENT, (1..=600).map(frame).collect()).len(), 600);
    let listed = director.run(&["-Lcn"]).stdout;
    assert_eq!(listed.lines().filter(|line| line.starts_with("UDP 05:00  UDP ")).count(), 600);
    let gone = director.gyre(&["ctl", "connections.delete", "{\"all\":true}"]);
    assert_eq!(gone.exit, 0);
}

/// As in the kernel: a server that comes back to its service brings its counts along, one of a
/// service that was itself away starts at 0.
#[test]
fn counts_come_back_with_a_server_and_not_with_a_service() {
    use crate::support::{CLIENT, from_client};
    let director = shared();
    let send = || {
        let packet = from_client("10.0.0.7".parse().unwrap(), "10.1.0.1".parse().unwrap());
        let frame = packet.udp(5000, 53).payload(&[7; 72]).build().to_vec();
        director.receive(CLIENT, vec![frame; 3])
    };
    let counts = || {
        let listed = director.run(&["-Ln", "--stats"]).stdout;
        let rows = listed.lines().skip(3);
        let last = |row: &str| {
            let words: Vec<&str> = row.split_whitespace().collect();
            words[words.len() - 5..].join(" ")
        };
        rows.map(last).collect::<Vec<_>>()
    };
    let server = words("-a -u 10.1.0.1:53 -r 10.2.0.13:53 -g");
    director.reset("-A -u 10.1.0.1:53 -s rr\n-a -u 10.1.0.1:53 -r 10.2.0.13:53 -g\n");
    assert_eq!(send().len(), 3);
    assert_eq!(counts(), ["1 3 0 300 0", "1 3 0 300 0"]);
    assert_eq!(director.run(&words("-d -u 10.1.0.1:53 -r 10.2.0.13:53")).exit, 0);
    assert_eq!(counts(), ["1 3 0 300 0"]);
    assert_eq!(director.run(&server).exit, 0);
    assert_eq!(counts(), ["1 3 0 300 0", "1 3 0 300 0"]);
    assert_eq!(director.run(&words("-D -u 10.1.0.1:53")).exit, 0);
    director.reset("-A -u 10.1.0.1:53 -s rr\n-a -u 10.1.0.1:53 -r 10.2.0.13:53 -g\n");
    assert_eq!(counts(), ["0 0 0 0 0", "0 0 0 0 0"]);
    assert_eq!(send().len(), 3);
    assert_eq!(counts(), ["0 3 0 300 0", "0 3 0 300 0"]);
    assert_eq!(director.run(&["-Z"]).exit, 0);
    assert_eq!(counts(), ["0 0 0 0 0", "0 0 0 0 0"]);
    let gone = director.gyre(&["ctl", "connections.delete", "{\"all\":true}"]);
    assert_eq!(gone.exit, 0);
}

/// Services are restored with their servers in one step, and line by line where that is refused.
#[test]
fn a_refused_line_of_many_takes_no_other_with_it() {
    let director = shared();
    let rules = "-A -t 10.1.0.1:80 -s rr\n\
                 -a -t 10.1.0.1:80 -r 10.2.0.11:80 -m\n\
                 -a -t 10.1.0.1:80 -r 10.2.0.11:80 -m\n\
                 -a -t 10.1.0.1:80 -r 10.2.0.12:80 -m -x 2 -y 9\n\
                 -a -t 10.1.0.1:80 -r 10.2.0.13:80 -m -w 70000\n\
                 -a -t 10.1.0.1:80 -r 10.2.0.14:80 -m\n\
                 -A -t 10.1.0.1:80 -s wrr\n\
                 -a -t 10.1.0.1:80 -r 10.2.0.15:80 -m\n\
                 -A -u 10.1.0.1:53 -s rr\n\
                 -a -u 10.1.0.1:53 -r 10.2.0.13:53 -g\n";
    let restored = director.run_with(&["-R"], rules);
    assert_eq!((restored.exit, restored.stdout.as_str()), (0, ""));
    let said: Vec<&str> = restored.stderr.lines().collect();
    assert_eq!(said.len(), 4, "{said:#?}");
    assert_eq!(said[0], "Destination already exists");
    assert_eq!(said[1], "Numerical result out of range");
    assert!(said[2].contains("65535"), "{said:#?}");
    assert_eq!(said[3], "Service already exists");
    let kept = "-A -t 10.1.0.1:80 -s rr\n\
                -a -t 10.1.0.1:80 -r 10.2.0.11:80 -m -w 1\n\
                -a -t 10.1.0.1:80 -r 10.2.0.14:80 -m -w 1\n\
                -a -t 10.1.0.1:80 -r 10.2.0.15:80 -m -w 1\n\
                -A -u 10.1.0.1:53 -s rr\n\
                -a -u 10.1.0.1:53 -r 10.2.0.13:53 -g -w 1\n";
    assert_eq!(director.rules(), kept);
    let bad = format!("{rules}-A -t\n");
    director.reset("");
    assert_eq!(director.run_with(&["-R"], &bad).exit, 0);
    let stopped =
        director.run_with(&["-R"], "-A -t 10.1.0.1:81 -s rr\nnonsense\n-A -t 10.1.0.1:82\n");
    assert_eq!(stopped.exit, 255);
    assert!(director.rules().contains("10.1.0.1:81") && !director.rules().contains("10.1.0.1:82"));
}
