//! The report as pictures: speed over the number of flows, cycles by stage, and the time of turns.

use std::fs;
use std::path::Path;

use anyhow::{Context, anyhow};
use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::{FontStyle, register_font};
use serde_json::{Map, Value};

use crate::report::{Line, Report};

/// Fonts that are taken, the first that is there.
const FONTS: [&str; 3] = [
    "/usr/share/fonts/truetype/dejavu/DejaVuSans.ttf",
    "/usr/share/fonts/truetype/liberation/LiberationSans-Regular.ttf",
    "/usr/share/fonts/truetype/freefont/FreeSans.ttf",
];
const FONT: &str = "sans-serif";
/// Of a picture, in pixels.
const SIZE: (u32, u32) = (960, 600);
/// Parts of a packet's cycles, in order.
const STAGES: [&str; 7] =
    ["receive", "classify", "lookup", "decide", "rewrite", "transmit", "other"];
const PERCENTILES: [&str; 4] = ["p50", "p99", "p99.9", "max"];

/// The font's file.
pub fn find_font() -> anyhow::Result<&'static str> {
    let found = FONTS.into_iter().find(|path| Path::new(path).is_file());
    found.context("no font to draw with: install fonts-dejavu-core")
}

/// Draws what the report has.
pub fn draw(report: &Report, folder: &Path) -> anyhow::Result<()> {
    let font = fs::read(find_font()?)?;
    register_font(FONT, FontStyle::Normal, Box::leak(font.into_boxed_slice()))
        .map_err(|_| anyhow!("not a font that can be drawn with"))?;
    fs::create_dir_all(folder).with_context(|| format!("{}", folder.display()))?;
    let pictures: [(&str, Picture); 3] = [
        ("speed", speed(report)),
        ("stages", bars(stages(report), "cycles a packet, UDP over IPv4")),
        ("turns", percentiles(turns(report))),
    ];
    for (name, picture) in pictures {
        if picture.is_empty() {
            println!("nothing measured to draw {name} of");
            continue;
        }
        let path = |ending: &str| folder.join(format!("{name}.{ending}"));
        let failed = |error: String| anyhow!("{name}: {error}");
        let svg = path("svg");
        let area = SVGBackend::new(&svg, SIZE).into_drawing_area();
        picture.draw(&area).map_err(|error| failed(error.to_string()))?;
        let png = path("png");
        let area = BitMapBackend::new(&png, SIZE).into_drawing_area();
        picture.draw(&area).map_err(|error| failed(error.to_string()))?;
    }
    Ok(())
}

/// Named points: of lines, or parts of a bar from the bottom up.
type Series = Vec<(String, Vec<(f64, f64)>)>;

/// What is drawn.
enum Picture {
    /// Lines over a logarithmic axis.
    Lines { series: Series, title: String, of: [&'static str; 2] },
    /// Lines over a few named places, both upwards by factors.
    Places { series: Series, title: String, names: Vec<String> },
    /// A bar for each name.
    Bars { bars: Vec<(String, Vec<f64>)>, title: String },
}

/// Speed over flows: each mode's clients' packets, and what they are held against.
fn speed(report: &Report) -> Picture {
    let is_plain = |line: &&Line| {
        let distinct = line.case.matches('-').count() == 2;
        let is_established = line.case.starts_with(&line.mode);
        distinct
            && is_established
            && line.direction == "in"
            && line.protocol == "udp"
            && line.family == 4
    };
    let lines: Vec<&Line> = report.cases.iter().filter(is_plain).collect();
    let mut series: Series = Vec::new();
    for mode in ["dr", "tun", "nat", "fullnat"] {
        let of_mode = lines.iter().filter(|line| line.mode == mode && line.workers == 1);
        let points: Vec<_> = of_mode.map(|line| (line.flows as f64, line.mpps)).collect();
        series.push((mode.to_owned(), points));
    }
    let held = |value: fn(&Line) -> f64| {
        let of = lines.iter().filter(|line| line.mode == "dr");
        of.map(|line| (line.flows as f64, value(line))).collect()
    };
    series.push(("macswap".into(), held(|line| line.macswap_mpps)));
    series.push(("roofline".into(), held(|line| line.roofline_mpps)));
    series.iter_mut().for_each(|(_, points)| points.sort_by(|a, b| a.0.total_cmp(&b.0)));
    series.retain(|(_, points)| points.len() > 1);
    let title = "64-byte frames of established flows, one core, UDP over IPv4".into();
    Picture::Lines { series, title, of: ["live flows", "million packets a second"] }
}

/// Cycles by stage of every case that was looked at.
fn stages(report: &Report) -> Vec<(String, Vec<f64>)> {
    let looked = report.others.iter().filter_map(|other| {
        let cycles = other.more.get("cycles")?;
        let name = other.case.trim_start_matches("stages-").replace("-udp4-", " ");
        let cycles: Option<Vec<f64>> = STAGES.iter().map(|stage| cycles[stage].as_f64()).collect();
        Some((name, cycles?))
    });
    looked.collect()
}

fn bars(bars: Vec<(String, Vec<f64>)>, title: &str) -> Picture {
    Picture::Bars { bars, title: title.to_owned() }
}

/// Percentiles of turns, each case's beside macswap's.
fn turns(report: &Report) -> Series {
    let mut series = Series::new();
    let mut add = |name: String, turns: &Map<String, Value>| {
        let value = |name: &&str| turns.get(*name).and_then(Value::as_f64);
        let values = PERCENTILES.iter().map(value).enumerate();
        let points: Vec<_> = values.filter_map(|(at, value)| Some((at as f64, value?))).collect();
        series.push((name, points));
    };
    for line in &report.cases {
        if let Some(Value::Object(turns)) = line.more.get("turn_us") {
            add(line.case.clone(), turns);
        }
        for other in ["macswap", "spinning"] {
            if let Some(Value::Object(turns)) = line.more.get(format!("{other}_turn_us").as_str()) {
                add(format!("{other}, {}", line.case), turns);
            }
        }
    }
    series
}

fn percentiles(series: Series) -> Picture {
    let title = "time of a worker's turn in microseconds, mixed traffic".into();
    Picture::Places { series, title, names: PERCENTILES.map(str::to_owned).into() }
}

type Drawn<DB> = Result<(), DrawingAreaErrorKind<<DB as DrawingBackend>::ErrorType>>;
type Area<DB> = DrawingArea<DB, Shift>;

impl Picture {
    fn is_empty(&self) -> bool {
        match self {
            Picture::Lines { series, .. } | Picture::Places { series, .. } => series.is_empty(),
            Picture::Bars { bars, .. } => bars.is_empty(),
        }
    }

    fn draw<DB: DrawingBackend>(&self, area: &Area<DB>) -> Drawn<DB> {
        area.fill(&WHITE)?;
        match self {
            Picture::Lines { series, title, of } => lines(area, series, title, *of)?,
            Picture::Places { series, title, names } => places(area, series, title, names)?,
            Picture::Bars { bars, title } => stacked(area, bars, title)?,
        }
        area.present()
    }
}

/// The largest value of a series, with room above.
fn top(series: &Series) -> f64 {
    let values = series.iter().flat_map(|(_, points)| points.iter().map(|(_, value)| *value));
    values.fold(f64::MIN_POSITIVE, f64::max) * 1.4
}

fn lines<DB: DrawingBackend>(
    area: &Area<DB>,
    series: &Series,
    title: &str,
    [x, y]: [&str; 2],
) -> Drawn<DB> {
    let xs = || series.iter().flat_map(|(_, points)| points.iter().map(|(x, _)| *x));
    let (first, last) = (xs().fold(f64::MAX, f64::min), xs().fold(0.0, f64::max));
    let mut chart = ChartBuilder::on(area)
        .caption(title, (FONT, 22))
        .margin(16)
        .x_label_area_size(44)
        .y_label_area_size(56)
        .build_cartesian_2d((first.max(1.0)..last * 1.2).log_scale(), 0.0..top(series))?;
    let flows = |flows: &f64| match *flows {
        flows if flows >= 1e6 => format!("{}M", flows / 1e6),
        flows if flows >= 1e3 => format!("{}k", flows / 1e3),
        flows => flows.to_string(),
    };
    let mut mesh = chart.configure_mesh();
    mesh.x_desc(x).y_desc(y).x_label_formatter(&flows).label_style((FONT, 14)).draw()?;
    for (at, (name, points)) in series.iter().enumerate() {
        let color = Palette99::pick(at).to_rgba();
        let line = LineSeries::new(points.iter().copied(), color.stroke_width(2)).point_size(4);
        chart
            .draw_series(line)?
            .label(name)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 20, y)], color.stroke_width(2)));
    }
    legend(&mut chart, SeriesLabelPosition::UpperRight)
}

fn places<DB: DrawingBackend>(
    area: &Area<DB>,
    series: &Series,
    title: &str,
    names: &[String],
) -> Drawn<DB> {
    let last = names.len() as f64 - 1.0;
    let mut chart = ChartBuilder::on(area)
        .caption(title, (FONT, 22))
        .margin(16)
        .x_label_area_size(36)
        .y_label_area_size(56)
        .build_cartesian_2d(-0.2..last + 0.2, (0.1..top(series)).log_scale())?;
    let name = |place: &f64| match place.fract().abs() < 0.01 {
        true => names.get(place.round() as usize).cloned().unwrap_or_default(),
        false => String::new(),
    };
    let mut mesh = chart.configure_mesh();
    mesh.x_labels(names.len()).x_label_formatter(&name).label_style((FONT, 14)).draw()?;
    for (at, (name, points)) in series.iter().enumerate() {
        let color = Palette99::pick(at).to_rgba();
        let line = LineSeries::new(points.iter().copied(), color.stroke_width(2)).point_size(4);
        chart
            .draw_series(line)?
            .label(name)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 20, y)], color.stroke_width(2)));
    }
    legend(&mut chart, SeriesLabelPosition::UpperLeft)
}

fn stacked<DB: DrawingBackend>(
    area: &Area<DB>,
    bars: &[(String, Vec<f64>)],
    title: &str,
) -> Drawn<DB> {
    let most = bars.iter().map(|(_, parts)| parts.iter().sum::<f64>()).fold(0.0, f64::max);
    let mut chart = ChartBuilder::on(area)
        .caption(title, (FONT, 22))
        .margin(16)
        .x_label_area_size(36)
        .y_label_area_size(56)
        .build_cartesian_2d(-0.6..bars.len() as f64 + 0.8, 0.0..most * 1.1)?;
    let name = |place: &f64| match place.fract().abs() < 0.01 && *place >= 0.0 {
        true => bars.get(place.round() as usize).map(|bar| bar.0.clone()).unwrap_or_default(),
        false => String::new(),
    };
    let mut mesh = chart.configure_mesh();
    mesh.disable_x_mesh().x_labels(bars.len() + 2).x_label_formatter(&name);
    mesh.label_style((FONT, 13)).draw()?;
    for (part, stage) in STAGES.iter().enumerate() {
        let color = Palette99::pick(part).to_rgba();
        let boxes = bars.iter().enumerate().map(|(at, (_, parts))| {
            let below: f64 = parts[..part].iter().sum();
            let (left, right) = (at as f64 - 0.35, at as f64 + 0.35);
            Rectangle::new([(left, below), (right, below + parts[part])], color.filled())
        });
        chart
            .draw_series(boxes)?
            .label(*stage)
            .legend(move |(x, y)| Rectangle::new([(x, y - 5), (x + 14, y + 5)], color.filled()));
    }
    legend(&mut chart, SeriesLabelPosition::UpperRight)
}

fn legend<'a, DB: DrawingBackend + 'a, CT: CoordTranslate>(
    chart: &mut ChartContext<'a, DB, CT>,
    position: SeriesLabelPosition,
) -> Drawn<DB> {
    let mut labels = chart.configure_series_labels();
    labels.position(position);
    labels.background_style(WHITE.mix(0.8)).border_style(BLACK).label_font((FONT, 14)).draw()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cases::FLOWS;
    use crate::report::{Item, Other, Spread};
    use crate::traffic::Traffic;
    use gyre::model::ForwardMode;
    use serde_json::json;

    #[test]
    fn every_picture_is_drawn_in_both_forms() {
        let spread = |median| Spread { median, min: median, max: median };
        let line = |flows| {
            let traffic = Traffic::new(ForwardMode::DirectRoute, flows);
            let name = format!("dr-udp4-{}", crate::cases::flows_name(flows));
            Line::new(&name, &traffic, [50.0, 20.0, 40.0, 10.0].map(spread), 2.5)
        };
        let mut mixed = line(FLOWS);
        mixed.say("turn_us", json!({"p50": 3.0, "p99": 9.0, "p99.9": 12.0, "max": 100.0}));
        let mut stages = Other::new("stages-dr-udp4-1M");
        let cycles: Map<String, Value> =
            STAGES.iter().map(|stage| (stage.to_string(), json!(12.5))).collect();
        stages.say("cycles", cycles);
        let items: Vec<Item> = vec![line(1).into(), mixed.into(), stages.into()];
        let folder = tempfile::tempdir().unwrap();
        draw(&Report::new(items), folder.path()).unwrap();
        for name in ["speed", "stages", "turns"] {
            let svg = fs::read_to_string(folder.path().join(format!("{name}.svg"))).unwrap();
            assert!(svg.contains("<svg") && svg.len() > 2000, "{name}: {} bytes", svg.len());
            let png = fs::read(folder.path().join(format!("{name}.png"))).unwrap();
            assert_eq!(png[..4], *b"\x89PNG", "{name}");
        }
    }
}
