//! Plots as SVG: bars side by side, and lines.
//!
//! Knows: rectangles and text.   Does not know: what is plotted.

use std::fmt::Write;

const WIDTH: f64 = 720.0;
const HEIGHT: f64 = 300.0;
/// Room around the plot for titles and labels.
const MARGIN: f64 = 50.0;
const COLOURS: [&str; 4] = ["#4269d0", "#efb118", "#3ca951", "#ff725c"];

/// One set of bars per panel, each panel with its own scale.
pub(crate) fn bars(title: &str, panels: &[(&str, Vec<(String, f64)>)]) -> String {
    let mut out = begin(title);
    let panel = (WIDTH - MARGIN) / panels.len() as f64;
    for (at, (name, values)) in panels.iter().enumerate() {
        let left = MARGIN / 2.0 + panel * at as f64;
        let top = values.iter().map(|(_, value)| *value).fold(1e-9, f64::max);
        let step = (panel - 20.0) / values.len() as f64;
        text(&mut out, left, 45.0, "start", name);
        for (n, (label, value)) in values.iter().enumerate() {
            let height = value / top * (HEIGHT - 130.0);
            let (x, y) = (left + step * n as f64, HEIGHT - 60.0 - height);
            let colour = COLOURS[n % COLOURS.len()];
            put(
                &mut out,
                format_args!(
                    "<rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{:.1}\" height=\"{height:.1}\" fill=\"{colour}\"/>",
                    step * 0.8
                ),
            );
            let middle = x + step * 0.4;
            text(&mut out, middle, y - 4.0, "middle", &format!("{value:.0}"));
            let row = HEIGHT - 42.0 + 14.0 * (n % 2) as f64;
            text(&mut out, middle, row, "middle", label);
        }
    }
    end(out)
}

/// Values at equal steps from nothing to what `last` names, one line per series, on one scale.
pub(crate) fn lines(title: &str, last: &str, series: &[(&str, Vec<f64>)]) -> String {
    let mut out = begin(title);
    let top = series
        .iter()
        .flat_map(|(_, values)| values)
        .copied()
        .fold(1.0, f64::max);
    let (right, bottom) = (WIDTH - MARGIN / 2.0, HEIGHT - MARGIN);
    for (n, (name, values)) in series.iter().enumerate() {
        let step = (right - MARGIN) / values.len().max(1) as f64;
        let mut points = String::new();
        for (at, value) in values.iter().enumerate() {
            let (x, y) = (
                MARGIN + step * at as f64,
                bottom - value / top * (bottom - 60.0),
            );
            put(&mut points, format_args!("{x:.1},{y:.1} "));
        }
        let colour = COLOURS[n % COLOURS.len()];
        put(
            &mut out,
            format_args!(
                "<polyline fill=\"none\" stroke=\"{colour}\" stroke-width=\"1.5\" points=\"{points}\"/>"
            ),
        );
        let x = MARGIN + 200.0 * n as f64;
        put(
            &mut out,
            format_args!("<rect x=\"{x}\" y=\"34\" width=\"10\" height=\"10\" fill=\"{colour}\"/>"),
        );
        text(&mut out, x + 14.0, 43.0, "start", name);
    }
    text(&mut out, MARGIN - 4.0, 64.0, "end", &format!("{top:.0}"));
    text(&mut out, MARGIN, bottom + 16.0, "start", "0");
    text(&mut out, right, bottom + 16.0, "end", last);
    end(out)
}

fn begin(title: &str) -> String {
    let mut out = String::new();
    put(
        &mut out,
        format_args!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" font-family=\"sans-serif\" font-size=\"11\">\n\
             <rect width=\"100%\" height=\"100%\" fill=\"white\"/>"
        ),
    );
    text(&mut out, MARGIN / 2.0, 20.0, "start", title);
    out
}

fn end(mut out: String) -> String {
    out.push_str("</svg>\n");
    out
}

fn text(out: &mut String, x: f64, y: f64, anchor: &str, what: &str) {
    let what = what.replace('&', "&amp;").replace('<', "&lt;");
    put(
        out,
        format_args!("<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{what}</text>\n"),
    );
}

fn put(out: &mut String, what: std::fmt::Arguments<'_>) {
    out.write_fmt(what).expect("a String takes everything");
}
