//! A control server with HTTP, and the plainest of clients.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use gyre::control::socket::SocketLimits;
use serde_json::{Value, json};

use crate::support::{CONFIG, Gyre, PATIENCE};

pub const TOKEN: &str = "a-token-that-is-long-enough";

/// A running gyre with HTTP on a port of its own.
pub struct Web {
    pub gyre: Gyre,
    pub address: SocketAddr,
    pub token_file: PathBuf,
    pub directory: tempfile::TempDir,
}

/// An address that was free a moment ago; nobody else asks for this one.
pub fn free_address() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

impl Web {
    pub fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let token_file = directory.path().join("token");
        std::fs::write(&token_file, TOKEN).unwrap();
        std::fs::set_permissions(&token_file, std::fs::Permissions::from_mode(0o600)).unwrap();
        let (address, token) = (free_address(), token_file.display());
        let text = format!("{CONFIG}\n[http]\nlisten = \"{address}\"\ntoken_file = \"{token}\"\n");
        let path = Path::new("/etc/gyre/test.toml");
        let gyre = Gyre::of_file(path, &text, SocketLimits::default());
        // The socket is there from the first; what answers is ready.
        gyre.call("status", json!({}));
        Web { gyre, address, token_file, directory }
    }

    pub fn stream(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream
    }

    /// Status, headers, body.
    pub fn send(&self, request: &str) -> (u16, String, String) {
        let mut stream = self.stream();
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        let answer = String::from_utf8(answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
        let status = head.split(' ').nth(1).and_then(|code| code.parse().ok());
        (status.unwrap_or_else(|| panic!("{answer}")), head.to_lowercase(), body.to_owned())
    }

    pub fn get(&self, path: &str, more: &str) -> (u16, String, String) {
        self.send(&format!(
            "GET {path} HTTP/1.1\r\nHost: gyre\r\nConnection: close\r\n\
             Authorization: Bearer {TOKEN}\r\n{more}\r\n"
        ))
    }

    pub fn rpc(&self, body: &str) -> (u16, Value) {
        let (status, _, answer) = self.send(&format!(
            "POST /rpc HTTP/1.1\r\nHost: gyre\r\nConnection: close\r\nAuthorization: bearer {TOKEN}\
             \r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        ));
        (status, serde_json::from_str(&answer).unwrap_or_default())
    }
}
