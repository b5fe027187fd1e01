//! The screen: a line of totals, the tabs, a table, a line of keys. Takes what room there is.

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Cell as TableCell, Clear, Paragraph, Row as TableRow, Table};

use super::columns::{Cell, Row, Tab};
use super::format::short;
use super::state::{Colours, Look, State};
use crate::control::api::{ServerRow, ServiceRow};

/// Below this nothing useful can be shown.
const WIDTH_MIN: u16 = 40;
const HEIGHT_MIN: u16 = 6;

const KEYS: [(&str, &str); 9] = [
    ("q", "quit"),
    ("1-4, Tab", "services, servers, workers, drops"),
    ("arrows, j k", "one line"),
    ("Page, space", "one page"),
    ("g, G", "first, last"),
    ("s, S", "sort by the next column, the one before"),
    ("r", "reverse the order"),
    ("/", "only lines with a text; Enter keeps it, Esc forgets it"),
    ("?", "this"),
];

/// Draws everything.
pub fn screen(state: &mut State, frame: &mut Frame<'_>) {
    let area = frame.area();
    if area.width < WIDTH_MIN || area.height < HEIGHT_MIN {
        let text = format!("{WIDTH_MIN}x{HEIGHT_MIN} at least");
        return frame.render_widget(Paragraph::new(text), area);
    }
    let lines = [Constraint::Length(1), Constraint::Length(1), Constraint::Fill(1)];
    let [head, tabs, body, foot] =
        Layout::vertical([lines[0], lines[1], lines[2], Constraint::Length(1)]).areas(area);
    frame.render_widget(self::head(state), head);
    frame.render_widget(self::tabs(state), tabs);
    // One line of it is the headings'.
    state.page = usize::from(body.height.saturating_sub(1)).max(1);
    let rows = state.rows();
    state.offset = state.offset.min(rows.len().saturating_sub(state.page));
    if state.look.is_some() {
        frame.render_widget(table(state, &rows), body);
    }
    frame.render_widget(self::foot(state, rows.len()), foot);
    if state.is_help {
        help(frame, area);
    }
}

fn colour(state: &State, colour: Color) -> Style {
    if state.colours == Colours::On { Style::new().fg(colour) } else { Style::new() }
}

fn bold() -> Style {
    Style::new().add_modifier(Modifier::BOLD)
}

/// Totals, or that gyre says nothing.
fn head(state: &State) -> Line<'static> {
    if let Some(why) = &state.gone {
        let text = format!("waiting for gyre... ({why})");
        return Line::styled(text, colour(state, Color::Yellow).add_modifier(Modifier::BOLD));
    }
    let Some(look) = &state.look else { return Line::from("asking gyre...") };
    let totals = totals(look);
    Line::from(vec![Span::styled("gyre", bold()), Span::raw(totals)])
}

fn totals(look: &Look) -> String {
    let services = &look.stats.services;
    let sum = |read: fn(&ServiceRow) -> u64| services.iter().map(read).sum::<u64>() as f64;
    let servers = || services.iter().flat_map(|service| &service.servers);
    let of_servers = |read: fn(&ServerRow) -> u64| servers().map(read).sum::<u64>() as f64;
    format!(
        "  {} conn/s  in {} pkt/s {} b/s  out {} pkt/s {} b/s  {} active",
        short(sum(|one| one.rates.connections)),
        short(sum(|one| one.rates.in_packets)),
        short(sum(|one| one.rates.in_bytes) * 8.0),
        short(sum(|one| one.rates.out_packets)),
        short(sum(|one| one.rates.out_bytes) * 8.0),
        short(of_servers(|one| one.active)),
    )
}

fn tabs(state: &State) -> Line<'static> {
    let tab = |(at, tab): (usize, Tab)| {
        let text = format!(" {} {} ", at + 1, tab.name());
        let is_open = tab == state.tab;
        let style =
            if is_open { Style::new().add_modifier(Modifier::REVERSED) } else { Style::new() };
        Span::styled(text, style)
    };
    Line::from(Tab::ALL.into_iter().enumerate().map(tab).collect::<Vec<_>>())
}

fn table<'a>(state: &State, rows: &[Row]) -> Table<'a> {
    let (columns, sort) = (state.tab.columns(), state.sort());
    // The last column of words has the rest of a wide screen.
    let widths = columns.iter().enumerate().map(|(at, (_, width))| match at {
        0 if state.tab != Tab::Drops => Constraint::Fill(1),
        3 if state.tab == Tab::Drops => Constraint::Fill(1),
        _ => Constraint::Length(*width),
    });
    let heading = |(at, (name, width)): (usize, &(&'static str, u16))| {
        let mark = if at == sort.column { Modifier::UNDERLINED } else { Modifier::empty() };
        // As the values below it; with none, nobody minds.
        let below = rows.first().map(|row| &row.0[at]);
        let text = match below {
            Some(below) => aligned(name, *width, below),
            None => (*name).to_owned(),
        };
        TableCell::from(Span::styled(text, bold().add_modifier(mark)))
    };
    let header = TableRow::new(columns.iter().enumerate().map(heading).collect::<Vec<_>>());
    let shown = rows.iter().skip(state.offset).take(state.page);
    let lines: Vec<TableRow<'a>> = shown.map(|row| line(state, row)).collect();
    Table::new(lines, widths.collect::<Vec<_>>()).header(header).column_spacing(1)
}

fn line<'a>(state: &State, row: &Row) -> TableRow<'a> {
    let cell = |(cell, (_, width)): (&Cell, &(&str, u16))| {
        let text = aligned(&cell.text(), *width, cell);
        let style = match cell {
            Cell::Bad(_) => colour(state, Color::Red).add_modifier(Modifier::BOLD),
            _ => Style::new(),
        };
        TableCell::from(Span::styled(text, style))
    };
    TableRow::new(row.0.iter().zip(state.tab.columns()).map(cell).collect::<Vec<_>>())
}

/// `text` on the side on which a cell's value stands.
fn aligned(text: &str, width: u16, cell: &Cell) -> String {
    match cell.is_number() {
        true => format!("{text:>width$}", width = usize::from(width)),
        false => text.to_owned(),
    }
}

fn foot(state: &State, rows: usize) -> Line<'static> {
    if state.is_typing {
        return Line::from(format!("/{}_", state.filter));
    }
    let last = rows.min(state.offset + state.page);
    let first = if rows == 0 { 0 } else { state.offset + 1 };
    let (name, _) = state.tab.columns()[state.sort().column];
    let order = if state.sort().is_reversed { " reversed" } else { "" };
    let filter = match state.filter.as_str() {
        "" => String::new(),
        filter => format!("  with \"{filter}\""),
    };
    Line::from(format!("{first}-{last} of {rows}{filter}  by {name}{order}  ? keys  q quit"))
}

fn help(frame: &mut Frame<'_>, area: Rect) {
    let lines: Vec<Line<'_>> =
        KEYS.iter().map(|(key, what)| Line::from(format!(" {key:<12} {what} "))).collect();
    let height = (lines.len() as u16).min(area.height);
    let width = 72.min(area.width);
    let place = Rect::new((area.width - width) / 2, (area.height - height) / 2, width, height);
    frame.render_widget(Clear, place);
    let style = Style::new().add_modifier(Modifier::REVERSED);
    frame.render_widget(Paragraph::new(lines).style(style), place);
}
