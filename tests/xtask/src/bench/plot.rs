//! Line plots as SVG, written by hand: axes, a legend, lines over a few named points.
//!
//! A plotting crate would bring fonts and a hundred packages for two drawings of three lines.

use std::fmt::Write as _;

/// One line: a value per point of the x axis, or a gap.
pub(crate) struct Series {
    pub(crate) name: &'static str,
    pub(crate) values: Vec<Option<f64>>,
}

const WIDTH: f64 = 860.0;
const HEIGHT: f64 = 420.0;
const LEFT: f64 = 90.0;
const RIGHT: f64 = 30.0;
const TOP: f64 = 60.0;
const BOTTOM: f64 = 70.0;
/// Told apart by people who see colours differently, too (Okabe and Ito's set).
const COLOURS: [&str; 5] = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00"];

/// Where values lie on the drawing: named points from left to right, whole decades upwards.
struct Frame {
    points: usize,
    /// From one entry of the legend to the next.
    key_step: f64,
    /// Powers of ten at the lower and the upper edge; the upper is the greater.
    low: f64,
    high: f64,
}

impl Frame {
    fn around(points: usize, series: &[Series]) -> Self {
        let values = series
            .iter()
            .flat_map(|s| s.values.iter().flatten().copied());
        let powers: Vec<f64> = values.filter(|v| *v > 0.0).map(f64::log10).collect();
        let low = powers
            .iter()
            .copied()
            .reduce(f64::min)
            .unwrap_or(0.0)
            .floor();
        let high = powers
            .iter()
            .copied()
            .reduce(f64::max)
            .unwrap_or(0.0)
            .ceil();
        Self {
            points,
            key_step: f64::min(220.0, (WIDTH - LEFT) / series.len().max(1) as f64),
            low,
            high: high.max(low + 1.0),
        }
    }

    fn x(&self, index: usize) -> f64 {
        LEFT + (index as f64 + 0.5) / self.points as f64 * (WIDTH - LEFT - RIGHT)
    }

    fn y(&self, value: f64) -> f64 {
        let share = (value.log10() - self.low) / (self.high - self.low);
        HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM)
    }
}

/// A plot with a logarithmic y axis over whole decades.
pub(crate) fn lines(title: &str, y_label: &str, x: &[String], series: &[Series]) -> String {
    let frame = Frame::around(x.len(), series);
    let mut body = String::new();
    axes(&mut body, &frame, x);
    for (index, line) in series.iter().enumerate() {
        draw(&mut body, &frame, line, index);
    }
    add(
        &mut body,
        &text(LEFT, 24.0, "start", &format!("{title}, {y_label}")),
    );
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" font-family=\"sans-serif\" font-size=\"13\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n{body}</svg>\n"
    )
}

fn axes(body: &mut String, frame: &Frame, x: &[String]) {
    for decade in frame.low as i32..=frame.high as i32 {
        let value = 10_f64.powi(decade);
        let (y, right) = (frame.y(value), WIDTH - RIGHT);
        let line = format!(
            "<line x1=\"{LEFT}\" y1=\"{y:.1}\" x2=\"{right}\" y2=\"{y:.1}\" stroke=\"#ddd\"/>"
        );
        add(body, &line);
        add(
            body,
            &text(LEFT - 8.0, y + 4.0, "end", &super::samples::number(value)),
        );
    }
    for (index, label) in x.iter().enumerate() {
        add(
            body,
            &text(frame.x(index), HEIGHT - BOTTOM + 24.0, "middle", label),
        );
    }
}

/// The `index`th line with its entry in the legend.
fn draw(body: &mut String, frame: &Frame, line: &Series, index: usize) {
    let colour = COLOURS[index % COLOURS.len()];
    let seen = line
        .values
        .iter()
        .enumerate()
        .filter_map(|(i, v)| Some((i, (*v)?)));
    let points = seen
        .filter(|(_, v)| *v > 0.0)
        .map(|(i, v)| (frame.x(i), frame.y(v)));
    let points: Vec<(f64, f64)> = points.collect();
    let path = points
        .iter()
        .map(|(x, y)| format!("{x:.1},{y:.1}"))
        .collect::<Vec<_>>()
        .join(" ");
    let line_element = format!(
        "<polyline points=\"{path}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"/>"
    );
    add(body, &line_element);
    let key = LEFT + frame.key_step * index as f64;
    for (x, y) in points.into_iter().chain([(key, 46.0)]) {
        add(
            body,
            &format!("<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"4\" fill=\"{colour}\"/>"),
        );
    }
    add(body, &text(key + 12.0, 50.0, "start", line.name));
}

fn text(x: f64, y: f64, anchor: &str, content: &str) -> String {
    let content = content.replace('&', "&amp;").replace('<', "&lt;");
    format!("<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{content}</text>")
}

fn add(body: &mut String, element: &str) {
    writeln!(body, "{element}").expect("a String takes any text");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gaps_and_empty_plots_still_draw() {
        let x = ["a".to_owned(), "b<c".to_owned()];
        let series = [Series {
            name: "one",
            values: vec![Some(10.0), None],
        }];
        let svg = lines("t", "y", &x, &series);
        assert!(
            svg.contains("b&lt;c") && svg.matches("<circle").count() == 2,
            "{svg}"
        );
        assert!(!lines("t", "y", &x, &[]).contains("NaN"));
    }
}
