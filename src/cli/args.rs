//! Options that several subcommands share.

use std::path::PathBuf;

use clap::Args;

use super::client::Client;

/// Where gyre listens unless configured otherwise.
pub const SOCKET_DEFAULT: &str = "/run/gyre/gyre.sock";

/// How to reach a running gyre.
#[derive(Clone, Debug, Args)]
pub struct SocketArgs {
    /// Control socket of the running gyre
    #[arg(long, value_name = "PATH", default_value = SOCKET_DEFAULT, env = "GYRE_SOCKET")]
    pub socket: PathBuf,
}

impl SocketArgs {
    /// Connects to it.
    pub fn connect(&self) -> anyhow::Result<Client> {
        Ok(Client::connect(&self.socket)?)
    }
}

/// How to reach a running gyre and how to show its answer.
#[derive(Clone, Debug, Args)]
pub struct ShowArgs {
    #[command(flatten)]
    pub socket: SocketArgs,
    /// Print the answer as JSON
    #[arg(short, long)]
    pub json: bool,
}
