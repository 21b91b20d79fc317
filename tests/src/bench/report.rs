//! What was measured, as a table for people, as JSON for scripts, and as a picture for the README.

use std::fmt::Write as _;

use serde_json::{Value, json};

use super::budget;

/// One figure: the median of several rounds, with the lowest and the highest of them.
#[derive(Clone, Debug)]
pub struct Figure {
    /// Name of a budget row, or of a figure without a budget.
    pub id: String,
    /// For people.
    pub what: String,
    /// Unit.
    pub unit: &'static str,
    /// Median, lowest, highest.
    pub median: f64,
    /// Lowest round.
    pub low: f64,
    /// Highest round.
    pub high: f64,
}

impl Figure {
    /// From the rounds of one measurement. Panics if there is none: a measurement without rounds is a mistake here.
    pub fn of(id: &str, what: &str, unit: &'static str, rounds: &[f64]) -> Self {
        let mut sorted = rounds.to_vec();
        sorted.sort_by(f64::total_cmp);
        let (low, high) = (sorted[0], sorted[sorted.len() - 1]);
        Self { id: id.into(), what: what.into(), unit, median: sorted[sorted.len() / 2], low, high }
    }
}

/// Everything one run measured.
#[derive(Debug, Default)]
pub struct Report {
    /// Machine and kernel, one line.
    pub machine: String,
    /// Figures with a budget.
    pub budgeted: Vec<Figure>,
    /// End to end, in groups of bars that belong side by side: title, unit and bars.
    pub groups: Vec<Group>,
}

/// Bars to compare with each other.
#[derive(Debug)]
pub struct Group {
    /// What was measured.
    pub title: String,
    /// Bars, in order.
    pub bars: Vec<Figure>,
}

impl Report {
    /// For a terminal.
    pub fn table(&self) -> String {
        let mut out = format!("{}\n\n", self.machine);
        let _ =
            writeln!(out, "{:<62} {:>9} {:>17} {:>9} {:>9}", "path", "median", "lowest..highest", "budget", "stretch");
        for figure in &self.budgeted {
            let (limit, stretch, mark) = budget::find(&figure.id).map_or((f64::NAN, f64::NAN, ""), |row| {
                (row.budget, row.stretch, if row.keeps(figure.median) { "" } else { "  over budget" })
            });
            let range = format!("{}..{}", short(figure.low), short(figure.high));
            let _ = writeln!(
                out,
                "{:<62} {:>9} {:>17} {:>9} {:>9} {}{mark}",
                figure.what,
                short(figure.median),
                range,
                short(limit),
                short(stretch),
                figure.unit,
            );
        }
        for group in &self.groups {
            let _ = writeln!(out, "\n{}", group.title);
            for bar in &group.bars {
                let range = format!("{}..{}", short(bar.low), short(bar.high));
                let _ = writeln!(out, "  {:<60} {:>9} {:>17} {}", bar.what, short(bar.median), range, bar.unit);
            }
        }
        out
    }

    /// For scripts.
    pub fn json(&self) -> Value {
        let figure = |f: &Figure| {
            let row = budget::find(&f.id);
            json!({
                "id": f.id, "what": f.what, "unit": f.unit, "median": f.median, "low": f.low, "high": f.high,
                "budget": row.map(|r| r.budget), "stretch": row.map(|r| r.stretch),
            })
        };
        json!({
            "machine": self.machine,
            "budgeted": self.budgeted.iter().map(figure).collect::<Vec<_>>(),
            "groups": self.groups.iter().map(|group| json!({
                "title": group.title, "bars": group.bars.iter().map(figure).collect::<Vec<_>>(),
            })).collect::<Vec<_>>(),
        })
    }

    /// Horizontal bars, a block for the budgets and one for each group.
    pub fn svg(&self) -> String {
        let mut body = String::new();
        let mut y = 30.0;
        let budgets: Vec<_> = self.budgeted.iter().filter(|f| f.unit == "ns" && !f.id.starts_with("e2e")).collect();
        if !budgets.is_empty() {
            heading(&mut body, &mut y, "program time per packet, ns (line: budget)");
            let limit = |f: &Figure| budget::find(&f.id).map_or(0.0, |row| row.budget);
            let top = budgets.iter().map(|f| f.median.max(limit(f))).fold(1.0, f64::max);
            for figure in budgets {
                bar(&mut body, &mut y, figure, top, Some(limit(figure)));
            }
        }
        for group in &self.groups {
            heading(&mut body, &mut y, &group.title);
            let top = group.bars.iter().map(|f| f.median).fold(f64::MIN_POSITIVE, f64::max);
            for figure in &group.bars {
                bar(&mut body, &mut y, figure, top, None);
            }
        }
        let height = y + 10.0;
        format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 900 {height}\" font-size=\"12\" \
             font-family=\"ui-sans-serif, system-ui, sans-serif\">\n<rect width=\"900\" height=\"{height}\" \
             fill=\"#fff\"/>\n{body}<text x=\"10\" y=\"14\" fill=\"#57606a\" font-size=\"10\">{}</text>\n</svg>\n",
            escape(&self.machine)
        )
    }
}

const LEFT: f64 = 400.0;
const WIDTH: f64 = 400.0;

fn heading(body: &mut String, y: &mut f64, text: &str) {
    *y += 18.0;
    let _ = writeln!(body, "<text x=\"10\" y=\"{}\" font-weight=\"600\">{}</text>", *y, escape(text));
    *y += 8.0;
}

fn bar(body: &mut String, y: &mut f64, figure: &Figure, top: f64, limit: Option<f64>) {
    let width = (figure.median / top * WIDTH).max(1.0);
    let color = if figure.what.contains("nftables") {
        "#bf8700"
    } else if figure.what.contains("direct") {
        "#8c959f"
    } else {
        "#1f6feb"
    };
    let text = escape(&figure.what);
    let _ = writeln!(body, "<text x=\"{}\" y=\"{}\" text-anchor=\"end\">{text}</text>", LEFT - 8.0, *y + 11.0);
    let _ = writeln!(body, "<rect x=\"{LEFT}\" y=\"{y}\" width=\"{width:.1}\" height=\"13\" fill=\"{color}\"/>");
    if let Some(limit) = limit {
        let x = LEFT + limit / top * WIDTH;
        let _ = writeln!(body, "<path d=\"M{x:.1} {}v17\" stroke=\"#cf222e\" stroke-width=\"2\"/>", *y - 2.0);
    }
    let value = format!("{} {}", short(figure.median), figure.unit);
    let x = LEFT + width.max(limit.map_or(0.0, |limit| limit / top * WIDTH)) + 6.0;
    let _ = writeln!(body, "<text x=\"{x:.1}\" y=\"{}\">{}</text>", *y + 11.0, escape(&value));
    *y += 18.0;
}

/// Three significant digits, without an exponent.
fn short(value: f64) -> String {
    match value.abs() {
        v if v.is_nan() => "-".into(),
        v if v >= 1e6 => format!("{:.2}M", value / 1e6),
        v if v >= 1e4 => format!("{:.1}k", value / 1e3),
        v if v >= 100.0 => format!("{value:.0}"),
        v if v >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_names_what_is_over_budget() {
        let mut report = Report { machine: "test <machine>".into(), ..Report::default() };
        report.budgeted.push(Figure::of("new/v4", "new connection", "ns", &[700.0, 600.0, 650.0]));
        report.budgeted.push(Figure::of("pass/xdp/v4", "passing by", "ns", &[20.0]));
        let table = report.table();
        let over: Vec<_> = table.lines().filter(|line| line.contains("over budget")).collect();
        assert_eq!(over.len(), 1, "{table}");
        assert!(over[0].contains("new connection") && over[0].contains("650"));
        assert_eq!(report.json()["budgeted"][0]["budget"], 500.0);
        assert!(report.svg().contains("test &lt;machine&gt;"));
    }
}
