//! `gyre top`: a live view. This file owns the terminal and the loop; `state` knows what is shown,
//! `draw` how.

mod columns;
mod draw;
mod fetch;
mod format;
mod state;

#[cfg(test)]
mod tests;

use std::io::{self, IsTerminal};
use std::panic;
use std::process;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context;
use ratatui::crossterm::cursor::Show;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEventKind, KeyModifiers};
use ratatui::crossterm::execute;

use super::args::SocketArgs;
use super::error::BadUsage;
use super::paint;
use super::watch::interval;
use state::{Colours, Key, State};

/// How soon a signal or a new sample is seen.
const TICK: Duration = Duration::from_millis(100);

/// Show live rates of services, servers, workers and drops
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Seconds between two looks, 0.2 to 60
    #[arg(short = 'n', long, value_name = "SECONDS", default_value = "1")]
    #[arg(value_parser = interval(0.2..=60.0))]
    interval: Duration,
    #[command(flatten)]
    socket: SocketArgs,
}

/// Shows it until `q`, Ctrl-C or a signal; the terminal is as before afterwards.
pub fn run(args: Args) -> anyhow::Result<()> {
    if !(paint::is_terminal() && io::stdin().is_terminal()) {
        let what = "gyre top needs a terminal; elsewhere use `gyre watch services`, or \
                    `gyre stats -j` once";
        return Err(BadUsage(what.into()).into());
    }
    // Whether it runs at all is said in plain words, not on a screen that goes away.
    drop(args.socket.connect()?);
    let ended = ended_by_signal()?;
    let samples = fetch::start(args.socket, args.interval);
    let mut state = State::new(if paint::is_on() { Colours::On } else { Colours::Off });
    let mut terminal = set_up()?;
    let done = show(&mut terminal, &mut state, &samples, &ended);
    give_back();
    done
}

/// Takes the terminal, such that a panic of any thread gives it back before it ends the program:
/// unwinding shows the cursor again, but release builds do not unwind.
fn set_up() -> anyhow::Result<ratatui::DefaultTerminal> {
    let report = panic::take_hook();
    panic::set_hook(Box::new(move |info| {
        give_back();
        report(info);
        process::abort();
    }));
    ratatui::try_init().inspect_err(|_| give_back()).context("the terminal cannot be set up")
}

/// Modes, screen and cursor as they were. A terminal that is gone cannot be given back.
fn give_back() {
    ratatui::restore();
    let _ = execute!(io::stdout(), Show);
}

/// A flag that SIGINT, SIGTERM, SIGHUP and SIGQUIT set: the loop leaves the terminal as it found
/// it.
fn ended_by_signal() -> anyhow::Result<Arc<AtomicBool>> {
    use tokio::signal::unix::{SignalKind, signal};
    let ended = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&ended);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut signals = {
        let _entered = runtime.enter();
        let kinds = [
            SignalKind::interrupt(),
            SignalKind::terminate(),
            SignalKind::hangup(),
            SignalKind::quit(),
        ];
        kinds.map(signal).into_iter().collect::<io::Result<Vec<_>>>()?
    };
    std::thread::spawn(move || {
        runtime.block_on(async {
            let waits = signals.iter_mut().map(|signal| Box::pin(signal.recv()));
            futures::future::select_all(waits).await;
        });
        flag.store(true, Ordering::Relaxed);
    });
    Ok(ended)
}

fn show(
    terminal: &mut ratatui::DefaultTerminal,
    state: &mut State,
    samples: &fetch::Samples,
    ended: &AtomicBool,
) -> anyhow::Result<()> {
    let mut changed = true;
    while !ended.load(Ordering::Relaxed) {
        while let Ok(sample) = samples.try_recv() {
            state.take(sample);
            changed = true;
        }
        if changed {
            terminal.draw(|frame| draw::screen(state, frame)).context("the terminal is gone")?;
            changed = false;
        }
        let until = Instant::now() + TICK;
        while event::poll(until.saturating_duration_since(Instant::now()))? {
            changed = true;
            if let Event::Key(pressed) = event::read()?
                && pressed.kind != KeyEventKind::Release
                && let Some(key) = key(pressed)
                && state.press(key) == state::Next::Quit
            {
                return Ok(());
            }
        }
    }
    Ok(())
}

/// A key, as far as it means anything here.
fn key(pressed: event::KeyEvent) -> Option<Key> {
    let is_control = pressed.modifiers.contains(KeyModifiers::CONTROL);
    Some(match pressed.code {
        KeyCode::Char('c' | 'd') if is_control => Key::Interrupt,
        KeyCode::Char(c) => Key::Character(c),
        KeyCode::Tab | KeyCode::Right => Key::NextTab,
        KeyCode::BackTab | KeyCode::Left => Key::PreviousTab,
        KeyCode::Up => Key::Up,
        KeyCode::Down => Key::Down,
        KeyCode::PageUp => Key::PageUp,
        KeyCode::PageDown => Key::PageDown,
        KeyCode::Home => Key::Home,
        KeyCode::End => Key::End,
        KeyCode::Enter => Key::Enter,
        KeyCode::Esc => Key::Escape,
        KeyCode::Backspace => Key::Backspace,
        _ => return None,
    })
}
