//! FTP through NAT and FULLNAT: vsftpd as it comes from Debian, curl as its client, active and
//! passive, in every form that a data connection is announced in.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Output;

use crate::Case;
use crate::lab::{Lab, Process};
use crate::servers::wait_for_listener;
use crate::site::{Layout, Plan, Server, Site, VIP4, VIP6, rip};

pub const CASES: &[Case] = &[
    ("ftp_through_nat", ftp_through_nat),
    ("ftp_through_fullnat", ftp_through_fullnat),
    ("ftp_through_fullnat_from_any_port", ftp_through_fullnat_from_any_port),
    ("ftp_through_nat_on_shared_ports", ftp_through_nat_on_shared_ports),
    ("ftp_through_fullnat_on_shared_ports", ftp_through_fullnat_on_shared_ports),
];

const FTP: u16 = 21;
const BIG_BYTES: usize = 3_000_000;

/// A service with the helper and servers 1 to 3.
fn service(mode: &str, vip: &str) -> String {
    let v6 = vip.contains(':');
    let at =
        |address: &str| if v6 { format!("[{address}]:{FTP}") } else { format!("{address}:{FTP}") };
    let mut text = format!(
        "[[service]]\naddress = \"{}\"\nforwarding = \"{mode}\"\nscheduler = \"rr\"\n\
         helper = \"ftp\"\n",
        at(vip)
    );
    if mode == "fullnat" {
        text += "local_addresses = \"pool\"\n";
    }
    for n in 1..=3 {
        text += &format!(
            "[[service.server]]\naddress = \"{}\"\n",
            at(&rip(Layout::TwoSegments, v6, n))
        );
    }
    text + "\n"
}

/// vsftpd with two files: `name`, which says whose it is, and `big`. It connects from `data_port`,
/// 0 for any.
fn start_vsftpd(lab: &Lab, server: &Server, data_port: u16) -> Process {
    let dir = lab.dir(&format!("{}-ftp", server.name));
    let files = dir.join("files");
    fs::create_dir_all(&files).unwrap();
    fs::write(files.join("name"), format!("{}\n", server.name)).unwrap();
    fs::write(files.join("big"), vec![b'x'; BIG_BYTES]).unwrap();
    // Its own directory and the lab's: vsftpd's children are another user.
    for path in dir.ancestors().take(2) {
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    }
    let config = dir.join("vsftpd.conf");
    let text = format!(
        "listen_ipv6=YES\nbackground=NO\nanonymous_enable=YES\nlocal_enable=NO\n\
         no_anon_password=YES\nanon_root={files}\nsecure_chroot_dir={dir}\n\
         seccomp_sandbox=NO\nxferlog_enable=NO\n\
         connect_from_port_20={from_20}\nftp_username=ftp\n",
        files = files.display(),
        dir = dir.display(),
        from_20 = if data_port == 0 { "NO" } else { "YES" },
    );
    fs::write(&config, text).unwrap();
    let process = server.space.start(
        "vsftpd",
        server.space.command("/usr/sbin/vsftpd").arg(&config),
        &dir.join("vsftpd.log"),
    );
    wait_for_listener(&server.space, FTP);
    process
}

/// curl's options for each form.
fn forms(v6: bool) -> Vec<(&'static str, Vec<&'static str>)> {
    let mut forms = vec![("EPSV", vec![]), ("EPRT", vec!["--ftp-port", "-"])];
    if !v6 {
        forms.push(("PASV", vec!["--disable-epsv"]));
        forms.push(("PORT", vec!["--ftp-port", "-", "--disable-eprt"]));
    }
    forms
}

fn ftp_through_nat() {
    ftp("nat", 20, "tap");
}

fn ftp_through_fullnat() {
    ftp("fullnat", 20, "tap");
}

fn ftp_through_fullnat_from_any_port() {
    ftp("fullnat", 0, "tap");
}

/// The kernel has a copy of every frame there, and would reset data connections that it saw.
fn ftp_through_nat_on_shared_ports() {
    ftp("nat", 20, "shared");
}

fn ftp_through_fullnat_on_shared_ports() {
    ftp("fullnat", 20, "shared");
}

fn ftp(mode: &str, data_port: u16, kernel: &'static str) {
    let services = [VIP4, VIP6].map(|vip| service(mode, vip));
    let plan = Plan { kernel, ..Plan::new(Layout::TwoSegments, services.concat()) };
    let site = Site::build(&plan);
    let mut running = Vec::new();
    for server in &site.servers {
        if mode == "nat" {
            server.space.ip("route add default via 10.2.0.1");
            server.space.ip("-6 route add default via fd00:2::1");
        }
        running.push(start_vsftpd(&site.lab, server, data_port));
    }
    let mut fetched = 0;
    for vip in [VIP4, VIP6] {
        for (form, options) in forms(vip.contains(':')) {
            for _ in 0..3 {
                fetched += fetch(&site, vip, form, &options);
            }
        }
    }
    let helpers = site.director.helpers();
    assert!(helpers["announced"] >= fetched && helpers.len() == 1, "{helpers:?}");
}

/// Several files over one control connection: one server gives them all. How many there were.
///
/// Two connections' packets may overtake each other, here where two workers hand frames over. A
/// server's "150" ahead of the data connection's last handshake segment is too much for curl 7.88
/// in active mode (`CURLE_WEIRD_SERVER_REPLY`, 8): it is run again then.
fn fetch(site: &Site, vip: &str, form: &str, options: &[&str]) -> u64 {
    let host = if vip.contains(':') { format!("[{vip}]") } else { vip.into() };
    let url = |file: &str| format!("ftp://{host}/{file}");
    let (name, big) = (url("name"), url("big"));
    let mut arguments = vec!["-gsS", "--fail-early", "--max-time", "20"];
    arguments.extend(options);
    arguments.extend([&*name, &name, &big, &name]);
    let is_overtaken = |output: &Output| !options.is_empty() && output.status.code() == Some(8);
    let mut outputs = (0..4).map(|_| site.client.output("curl", &arguments));
    let output = outputs.find(|output| !is_overtaken(output)).expect("overtaken four times");
    let said = String::from_utf8_lossy(&output.stderr);
    let helpers = site.director.helpers();
    assert!(output.status.success(), "{form} {vip}: {said} {helpers:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    let names: Vec<&str> = text.lines().map(|line| line.trim_start_matches('x')).collect();
    assert_eq!(names.len(), 3, "{form} {vip}: {said}");
    assert!(names[0].starts_with("server") && names.iter().all(|it| *it == names[0]), "{names:?}");
    assert_eq!(text.len(), BIG_BYTES + 3 * (names[0].len() + 1), "{form} {vip}");
    4
}
