//! The exposition in either of its two text formats.

use prometheus_client::encoding::text::encode;
use prometheus_client::registry::Registry;

/// What a scraper asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    /// Prometheus's own, which everything reads.
    Prometheus,
    /// OpenMetrics 1.0.
    OpenMetrics,
}

impl Format {
    /// By the Accept header.
    pub(super) fn accepted(header: Option<&str>) -> Self {
        let open = header.is_some_and(|header| header.contains("application/openmetrics-text"));
        if open { Self::OpenMetrics } else { Self::Prometheus }
    }

    pub(super) fn content_type(self) -> &'static str {
        match self {
            Self::Prometheus => "text/plain; version=0.0.4; charset=utf-8",
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }

    /// Everything in the registry.
    pub(super) fn write(self, registry: &Registry) -> Result<String, std::fmt::Error> {
        let mut text = String::new();
        encode(&mut text, registry)?;
        Ok(match self {
            Self::Prometheus => to_prometheus(&text),
            Self::OpenMetrics => text,
        })
    }
}

/// The formats differ in what comes before the samples: OpenMetrics names a family without the suffix of its samples.
fn to_prometheus(open_metrics: &str) -> String {
    let mut text = String::with_capacity(open_metrics.len());
    let mut help = "";
    for line in open_metrics.lines() {
        let mut words = line.splitn(4, ' ');
        match (words.next(), words.next(), words.next(), words.next()) {
            (Some("#"), Some("HELP"), _, words) => help = words.unwrap_or_default(),
            (Some("#"), Some("TYPE"), Some(name), kind) => {
                let (suffix, kind) = match kind {
                    Some("counter") => ("_total", "counter"),
                    Some("info") => ("_info", "gauge"),
                    Some("histogram") => ("", "histogram"),
                    _ => ("", "gauge"),
                };
                text.push_str(&format!("# HELP {name}{suffix} {help}\n# TYPE {name}{suffix} {kind}\n"));
            }
            (Some("#"), ..) => {}
            _ => {
                text.push_str(line);
                text.push('\n');
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use prometheus_client::metrics::counter::Counter;
    use prometheus_client::metrics::gauge::Gauge;
    use prometheus_client::metrics::histogram::Histogram;
    use prometheus_client::metrics::info::Info;

    use super::*;

    #[test]
    fn both_formats() {
        let mut registry = Registry::default();
        registry.register("a", "Counts # things", Counter::<u64>::default());
        registry.register("b_total", "A gauge of that name", Gauge::<i64>::default());
        registry.register("c", "About", Info::new([("k", "a \"b\"\n")]));
        registry.register("d", "How long", Histogram::new([0.5]));
        let expected = "# HELP a_total Counts # things.\n# TYPE a_total counter\na_total 0\n\
                        # HELP b_total A gauge of that name.\n# TYPE b_total gauge\nb_total 0\n\
                        # HELP c_info About.\n# TYPE c_info gauge\nc_info{k=\"a \\\"b\\\"\\n\"} 1\n\
                        # HELP d How long.\n# TYPE d histogram\nd_sum 0.0\nd_count 0\n\
                        d_bucket{le=\"0.5\"} 0\nd_bucket{le=\"+Inf\"} 0\n";
        assert_eq!(Format::Prometheus.write(&registry).as_deref(), Ok(expected));
        let open = Format::OpenMetrics.write(&registry).expect("a String takes everything");
        assert!(open.starts_with("# HELP a Counts # things.\n# TYPE a counter\na_total 0\n"), "{open}");
        assert!(open.ends_with("# EOF\n"));
    }

    #[test]
    fn openmetrics_only_for_those_who_ask() {
        assert_eq!(Format::accepted(None), Format::Prometheus);
        assert_eq!(Format::accepted(Some("text/plain;version=0.0.4;q=0.5,*/*;q=0.1")), Format::Prometheus);
        let prometheus = "application/openmetrics-text;version=1.0.0;q=0.8,text/plain;version=0.0.4;q=0.5";
        assert_eq!(Format::accepted(Some(prometheus)), Format::OpenMetrics);
    }
}
