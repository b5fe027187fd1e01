//! Whether the thread of health checks keeps its time: thousands of checks of listeners on
//! loopback, TCP and a share of HTTP, by the runner that the product uses.
//!
//! Prints how many rounds there were, how late they began and what the thread took of a core. It
//! fails only if rounds were lost: how late is late, the machine decides.

use std::net::{Ipv4Addr, SocketAddr};
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use clap::Parser;
use gyre::control::health::runner::{Check, CheckId, Report, Runner, Target};
use gyre::model::check::{CheckKind, CheckSpec, CheckWay, HttpCheck, HttpMethod};
use gyre::model::{ForwardMode, Tunnel};
use hashbrown::HashMap;
use hdrhistogram::Histogram;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

#[derive(Clone, Debug, Parser)]
#[command(about = "Carry out many health checks and say whether they keep their time")]
struct Args {
    /// Checks
    #[arg(long, default_value_t = 10_000)]
    checks: u32,
    /// From round to round, milliseconds
    #[arg(long, default_value_t = 2000)]
    interval_ms: u32,
    /// How long
    #[arg(long, default_value_t = 20)]
    seconds: u64,
    /// How many of the checks are HTTP requests, percent; the rest are TCP connections
    #[arg(long, default_value_t = 20)]
    http_percent: u32,
    /// Passed by `cargo bench`
    #[arg(long, hide = true)]
    bench: bool,
}

/// By how much an interval varies, percent; the product's own.
const JITTER_PERCENT: u8 = 10;
const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nConnection: close\r\n\r\nOK\n";

/// Listeners on a thread of their own: one that reads until the end, one that answers requests.
fn listen() -> anyhow::Result<[u16; 2]> {
    let (tell, told) = std::sync::mpsc::channel();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    thread::Builder::new().name("listeners".into()).spawn(move || {
        runtime.block_on(async {
            let tcp = listener().unwrap();
            let http = listener().unwrap();
            let ports = [&tcp, &http].map(|one| one.local_addr().unwrap().port());
            tell.send(ports).unwrap();
            tokio::join!(accept(tcp, &[]), accept(http, ANSWER));
        });
    })?;
    Ok(told.recv()?)
}

fn listener() -> std::io::Result<TcpListener> {
    let socket = tokio::net::TcpSocket::new_v4()?;
    socket.bind((Ipv4Addr::UNSPECIFIED, 0).into())?;
    socket.listen(4096)
}

async fn accept(listener: TcpListener, answer: &'static [u8]) {
    loop {
        if let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(serve(stream, answer));
        }
    }
}

/// Whoever asks gets the answer, and its connection is closed.
async fn serve(mut stream: TcpStream, answer: &'static [u8]) {
    let mut request = [0; 1024];
    if matches!(stream.read(&mut request).await, Ok(1..)) {
        let _ = stream.write_all(answer).await;
    }
}

/// Check `n`: each has a server address of its own, as in life, so that ports do not run out.
fn check(args: &Args, [tcp, http]: [u16; 2], n: u32) -> Check {
    let is_http = n * 100 / args.checks < args.http_percent;
    let [_, _, high, low] = n.to_be_bytes();
    let port = if is_http { http } else { tcp };
    let server = SocketAddr::from((Ipv4Addr::new(127, 1, high, low), port));
    let request = HttpCheck {
        tls: None,
        method: HttpMethod::Get,
        request: "/".into(),
        host: None,
        statuses: vec![(200, 200)],
        body: None,
    };
    let spec = CheckSpec {
        kind: if is_http { CheckKind::Http(request) } else { CheckKind::Tcp },
        port: None,
        way: CheckWay::Server,
        interval_ms: args.interval_ms,
        timeout_ms: args.interval_ms / 2,
        retries: 0,
        retry_delay_ms: 0,
        jitter_percent: JITTER_PERCENT,
        rise: 1,
        fall: 1,
    };
    let (mode, tunnel) = (ForwardMode::Nat, Tunnel::default());
    Check { spec, target: Target { server, vip: None, mode, tunnel } }
}

/// What came of it.
struct Seen {
    rounds: HashMap<CheckId, u64>,
    failed: HashMap<String, u64>,
    late_us: Histogram<u64>,
    took_us: Histogram<u64>,
}

impl Seen {
    fn add(&mut self, report: Report) -> anyhow::Result<()> {
        *self.rounds.entry(report.id).or_default() += 1;
        self.late_us.record(report.late.as_micros() as u64)?;
        match report.result {
            Ok(took) => self.took_us.record(took.as_micros() as u64)?,
            Err(failure) => *self.failed.entry(failure.to_string()).or_default() += 1,
        }
        Ok(())
    }
}

/// Processor time of the runner's thread so far, user and kernel.
fn thread_time() -> anyhow::Result<Duration> {
    let me = procfs::process::Process::myself()?;
    for task in me.tasks()? {
        let stat = task?.stat()?;
        if stat.comm == "gyre-checks" {
            let ticks = stat.utime + stat.stime;
            return Ok(Duration::from_secs_f64(ticks as f64 / procfs::ticks_per_second() as f64));
        }
    }
    anyhow::bail!("there is no thread gyre-checks")
}

fn main() -> anyhow::Result<ExitCode> {
    let args = Args::parse();
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    let ports = listen()?;
    let (runner, mut reports) = Runner::start(1)?;
    let histogram = || Histogram::new(3);
    let mut seen = Seen {
        rounds: HashMap::new(),
        failed: HashMap::new(),
        late_us: histogram()?,
        took_us: histogram()?,
    };
    let all = (0..args.checks).map(|n| (CheckId(n.into()), check(&args, ports, n)));
    runner.replace(all.collect());
    let (began, before) = (Instant::now(), thread_time()?);
    let clock = tokio::runtime::Builder::new_current_thread().enable_time().build()?;
    clock.block_on(async {
        let end = tokio::time::Instant::now() + Duration::from_secs(args.seconds);
        while let Ok(Some(report)) = tokio::time::timeout_at(end, reports.recv()).await {
            seen.add(report)?;
        }
        anyhow::Ok(())
    })?;
    let (span, busy) = (began.elapsed(), thread_time()? - before);
    print(&args, &seen, (span, busy), runner.figures().late());
    Ok(lost(&args, &seen))
}

fn print(args: &Args, seen: &Seen, (span, busy): (Duration, Duration), late: u64) {
    let rounds: u64 = seen.rounds.values().sum();
    let ms = |us: u64| us as f64 / 1000.0;
    println!(
        "{} checks each {} ms for {:.0} s, {} % of them HTTP{}",
        args.checks,
        args.interval_ms,
        span.as_secs_f64(),
        args.http_percent,
        if cfg!(debug_assertions) { "; a debug build" } else { "" }
    );
    println!("  rounds            {rounds} ({:.0} a second)", rounds as f64 / span.as_secs_f64());
    println!("  late ones         {late} (more than 100 ms)");
    let [middle, high] = [0.5, 0.99].map(|share| ms(seen.late_us.value_at_quantile(share)));
    let most = ms(seen.late_us.max());
    println!("  lateness          median {middle:.1} ms, p99 {high:.1} ms, most {most:.1} ms");
    let [middle, high] = [0.5, 0.99].map(|share| ms(seen.took_us.value_at_quantile(share)));
    println!("  a good check      median {middle:.2} ms, p99 {high:.2} ms");
    println!(
        "  the thread        {:.1} % of a core, {:.0} us a round",
        busy.as_secs_f64() / span.as_secs_f64() * 100.0,
        busy.as_secs_f64() * 1e6 / rounds.max(1) as f64
    );
    for (reason, count) in &seen.failed {
        println!("  failed            {count}: {reason}");
    }
}

/// Every check has its rounds: as many as the longest intervals leave room for, after the first
/// one's place in its interval.
fn lost(args: &Args, seen: &Seen) -> ExitCode {
    let longest = f64::from(args.interval_ms) * (1.0 + f64::from(JITTER_PERCENT) / 100.0);
    let least = (args.seconds as f64 * 1000.0 / longest).floor() as u64 - 1;
    let short = (0..args.checks)
        .filter(|n| seen.rounds.get(&CheckId((*n).into())).copied().unwrap_or(0) < least)
        .count();
    if short == 0 {
        return ExitCode::SUCCESS;
    }
    eprintln!("{short} checks had fewer than {least} rounds: rounds were lost");
    ExitCode::FAILURE
}
