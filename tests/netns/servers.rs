//! Programs that answer: nginx as it comes from Debian, haproxy as a PROXY receiver, and small
//! TCP and UDP servers on threads of ours.

use std::fs;
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::lab::{Lab, Namespace, Process, wait_for};

/// Plain HTTP.
pub const HTTP: u16 = 80;
/// HTTP behind a PROXY header, which nginx insists on.
pub const HTTP_PROXY: u16 = 8080;
/// The same in haproxy.
pub const HAPROXY_PROXY: u16 = 8081;
/// Bytes of /big.
pub const BIG_BYTES: usize = 5_000_000;

/// A running nginx. `GET /` gives `NAME CLIENT` where NAME is the server's and CLIENT the address
/// and port in its PROXY header (empty without one); `/big` gives BIG_BYTES.
pub struct Nginx {
    /// None while it is stopped.
    process: Option<Process>,
    space: Namespace,
    dir: PathBuf,
}

/// A line of nginx's access log.
#[derive(Clone, Debug)]
pub struct Request {
    /// The peer that nginx saw.
    pub remote: String,
    /// The client in the PROXY header, or `-`.
    pub proxied: String,
    pub status: u16,
}

fn nginx_config(dir: &Path, name: &str) -> String {
    let d = dir.display();
    let body = "default_type text/plain; \
                location = / { return 200 \"$server_label $proxy_protocol_addr \
                $proxy_protocol_port\\n\"; } location / { root DIR/files; }";
    let body = body.replace("$server_label", name).replace("DIR", &d.to_string());
    let temp: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .iter()
        .map(|kind| format!("  {kind}_temp_path {d}/tmp;\n"))
        .collect();
    format!(
        "daemon off; user root; worker_processes 1; pid {d}/pid; error_log {d}/error.log warn;\n\
         events {{ worker_connections 4096; }}\n\
         http {{\n{temp}\
           log_format short '$remote_addr $proxy_protocol_addr $status';\n\
           access_log {d}/access.log short; keepalive_requests 1000000;\n\
           server {{ listen {HTTP} backlog=4096; listen [::]:{HTTP} backlog=4096; {body} }}\n\
           server {{ listen {HTTP_PROXY} proxy_protocol; listen [::]:{HTTP_PROXY} proxy_protocol; \
           {body} }}\n}}\n"
    )
}

impl Nginx {
    /// Starts one and waits until it answers. `name` must be unique in the laboratory.
    pub fn start(lab: &Lab, space: &Namespace, name: &str) -> Nginx {
        let dir = lab.dir(name);
        fs::create_dir_all(dir.join("files")).unwrap();
        let big: Vec<u8> = (0..BIG_BYTES).map(|i| (i * 7 + i / 251) as u8).collect();
        fs::write(dir.join("files/big"), big).unwrap();
        fs::write(dir.join("nginx.conf"), nginx_config(&dir, name)).unwrap();
        let mut nginx = Nginx { process: None, space: space.clone(), dir };
        nginx.come_back();
        nginx
    }

    /// Starts it again after `die`.
    pub fn come_back(&mut self) {
        let mut command = self.space.command("nginx");
        command.args(["-p", self.dir.to_str().unwrap(), "-e", "stderr", "-c"]);
        command.arg(self.dir.join("nginx.conf"));
        self.process = Some(self.space.start("nginx", &mut command, &self.dir.join("output")));
        wait_for_listener(&self.space, HTTP);
    }

    /// Ends it at once; connections to it are refused from here on.
    pub fn die(&mut self) {
        self.process = None;
    }

    /// Requests served so far, oldest first.
    pub fn requests(&self) -> Vec<Request> {
        let text = fs::read_to_string(self.dir.join("access.log")).unwrap_or_default();
        let read = |line: &str| {
            let mut fields = line.split_whitespace().map(str::to_string);
            Some(Request {
                remote: fields.next()?,
                proxied: fields.next()?,
                status: fields.next()?.parse().ok()?,
            })
        };
        text.lines().filter_map(read).collect()
    }
}

/// Waits until something listens on a TCP port of the namespace.
pub fn wait_for_listener(space: &Namespace, port: u16) {
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    wait_for(&format!("a listener on {address} in {}", space.name()), 10, || {
        space.enter(|| TcpStream::connect_timeout(&address, Duration::from_millis(200)).ok())
    });
}

/// haproxy that takes a PROXY header and answers `CLIENT PORT` from it.
pub fn start_haproxy(lab: &Lab, space: &Namespace, name: &str) -> Process {
    let dir = lab.dir(name);
    let config = dir.join("haproxy.cfg");
    let text = format!(
        "defaults\n  mode http\n  timeout client 10s\n  timeout server 10s\n  timeout connect 5s\n\
         frontend f\n  bind :{HAPROXY_PROXY} accept-proxy\n  bind :::{HAPROXY_PROXY} v6only \
         accept-proxy\n  http-request return status 200 content-type text/plain lf-string \
         \"%[src] %[src_port]\\n\"\n"
    );
    fs::write(&config, text).unwrap();
    let mut command = space.command("haproxy");
    command.args(["-db", "-f"]).arg(&config);
    let process = space.start("haproxy", &mut command, &dir.join("haproxy.log"));
    wait_for_listener(space, HAPROXY_PROXY);
    process
}

/// A server of ours on a thread; it ends with this value.
pub struct ThreadServer {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for ThreadServer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

/// Answers each datagram with `NAME ` and the datagram, from `address`.
pub fn start_udp_echo(space: &Namespace, name: &str, address: SocketAddr) -> ThreadServer {
    let stop = Arc::new(AtomicBool::new(false));
    let (stopped, name) = (stop.clone(), name.to_string());
    let socket = space.enter(|| UdpSocket::bind(address).unwrap());
    socket.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
    let thread = std::thread::spawn(move || {
        let mut buffer = vec![0; 1 << 16];
        while !stopped.load(Ordering::Relaxed) {
            if let Ok((len, from)) = socket.recv_from(&mut buffer) {
                let mut answer = format!("{name} ").into_bytes();
                answer.extend_from_slice(&buffer[..len]);
                let _ = socket.send_to(&answer, from);
            }
        }
    });
    ThreadServer { stop, thread: Some(thread) }
}

/// Runs `serve` on a thread for each connection to `address`.
pub fn start_tcp(
    space: &Namespace,
    address: SocketAddr,
    serve: impl Fn(TcpStream) + Send + Sync + 'static,
) -> ThreadServer {
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = stop.clone();
    let listener = space.enter(|| TcpListener::bind(address).unwrap());
    listener.set_nonblocking(true).unwrap();
    let serve = Arc::new(serve);
    let thread = std::thread::spawn(move || {
        while !stopped.load(Ordering::Relaxed) {
            match listener.accept() {
                Ok((stream, _)) => {
                    let serve = serve.clone();
                    stream.set_nonblocking(false).unwrap();
                    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
                    std::thread::spawn(move || serve(stream));
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    std::thread::sleep(Duration::from_millis(5));
                }
                Err(_) => return,
            }
        }
    });
    ThreadServer { stop, thread: Some(thread) }
}

/// A mail server as far as its first words: it reads the PROXY line, then speaks first.
pub fn start_banner(space: &Namespace, name: &str, address: SocketAddr) -> ThreadServer {
    let name = name.to_string();
    start_tcp(space, address, move |stream| {
        let mut reader = BufReader::new(stream.try_clone().unwrap());
        let mut stream = stream;
        let mut header = String::new();
        if reader.read_line(&mut header).is_err() {
            return;
        }
        let client = header.split_whitespace().nth(2).unwrap_or("nobody").to_string();
        let _ = stream.write_all(format!("220 {name} greets {client}\r\n").as_bytes());
        let mut line = String::new();
        let _ = reader.read_line(&mut line);
        let _ = stream.write_all(b"221 bye\r\n");
    })
}

/// The 20-MB pattern of a direction: no two stretches alike, so that a lost, doubled or moved
/// byte shows.
pub fn pattern(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed | 1;
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}

/// Sends `ours` and expects exactly `theirs`, both at once; the time it took is the caller's.
pub fn exchange(stream: &TcpStream, ours: &[u8], theirs: &[u8]) -> Result<(), String> {
    let (mut writer, mut reader) = (stream, stream);
    std::thread::scope(|scope| {
        let sender = scope.spawn(move || {
            writer.write_all(ours).map_err(|e| format!("sending: {e}"))?;
            writer.shutdown(std::net::Shutdown::Write).map_err(|e| format!("closing: {e}"))
        });
        let mut got = Vec::with_capacity(theirs.len());
        let read = reader.read_to_end(&mut got).map_err(|e| format!("reading: {e}"));
        let first_wrong = got.iter().zip(theirs).position(|(a, b)| a != b);
        let verdict = match (read, first_wrong) {
            (Err(error), _) => Err(format!("{error} after {} bytes", got.len())),
            (_, Some(at)) => Err(format!("byte {at} of {} is wrong", theirs.len())),
            (_, None) if got.len() != theirs.len() => {
                Err(format!("{} bytes came instead of {}", got.len(), theirs.len()))
            }
            _ => Ok(()),
        };
        sender.join().unwrap().and(verdict)
    })
}

/// An address with a port.
pub fn at(address: &str, port: u16) -> SocketAddr {
    SocketAddr::new(address.parse::<IpAddr>().unwrap(), port)
}
