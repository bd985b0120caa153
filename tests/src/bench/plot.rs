//! A plot for each metric.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, anyhow};
use plotters::prelude::*;

use super::Metric;
use super::figures::Figure;
use super::report::{Report, scaled};

/// Pixels, of the plot and of one bar.
const WIDTH: u32 = 900;
const BAR: u32 = 26;
/// Room for the title and the scale.
const AROUND: u32 = 110;

/// One bar: its name, its figure, and whether it is enforcer's.
struct Bar {
    name: String,
    figure: Figure,
    ours: bool,
}

/// Writes a plot for every metric that was measured by rounds.
///
/// # Errors
///
/// A file cannot be written.
pub(super) fn write(report: &Report, directory: &Path) -> anyhow::Result<()> {
    let mut metrics: Vec<Metric> = report.series.iter().map(|series| series.metric).collect();
    metrics.sort_unstable();
    metrics.dedup();
    for metric in metrics {
        let bars: Vec<Bar> = report
            .series
            .iter()
            .filter(|series| series.metric == metric)
            .filter_map(|series| {
                let figure = Figure::of(&series.per_second)?;
                let name = format!("{}, {} rules", series.variant.name(), series.rules);
                Some(Bar { name, figure, ours: series.variant.is_ours() })
            })
            .collect();
        let text = draw(metric, &bars).map_err(|words| anyhow!("draw {}: {words}", metric.name()))?;
        let file =
            directory.join(format!("{}.svg", metric.name().replace([',', ' '], "-").replace("--", "-")));
        fs::write(&file, text).with_context(|| format!("write {}", file.display()))?;
    }
    Ok(())
}

/// Bars below each other, each with its median and interval.
fn draw(metric: Metric, bars: &[Bar]) -> Result<String, String> {
    let failed = |err: &dyn std::fmt::Display| err.to_string();
    let number = u32::try_from(bars.len()).map_err(|err| failed(&err))?;
    let most = bars.iter().map(|bar| bar.figure.high).fold(1.0, f64::max) * 1.25;
    let mut text = String::new();
    {
        let area = SVGBackend::with_string(&mut text, (WIDTH, AROUND + BAR * number)).into_drawing_area();
        area.fill(&WHITE).map_err(|err| failed(&err))?;
        let mut chart = ChartBuilder::on(&area)
            .caption(format!("{} ({})", metric.name(), metric.unit()), ("sans-serif", 18))
            .margin(10)
            .x_label_area_size(35)
            .y_label_area_size(210)
            .build_cartesian_2d(0.0..most, (0..number).into_segmented())
            .map_err(|err| failed(&err))?;
        let name = |place: &SegmentValue<u32>| match place {
            SegmentValue::CenterOf(index) => {
                // The first one on top; there are places for names beyond the last bar.
                let index = number.checked_sub(1 + *index).and_then(|index| usize::try_from(index).ok());
                index.and_then(|index| bars.get(index)).map_or_else(String::new, |bar| bar.name.clone())
            }
            SegmentValue::Exact(_) | SegmentValue::Last => String::new(),
        };
        chart
            .configure_mesh()
            .disable_y_mesh()
            .y_labels(bars.len())
            .y_label_formatter(&name)
            .x_label_formatter(&|rate| scaled(*rate))
            .draw()
            .map_err(|err| failed(&err))?;
        for (index, bar) in (0..number).rev().zip(bars) {
            let colour = if bar.ours { RGBColor(0x1f, 0x77, 0xb4) } else { RGBColor(0xa0, 0xa0, 0xa0) };
            let (low, high) = (SegmentValue::Exact(index), SegmentValue::Exact(index + 1));
            let mut rectangle = Rectangle::new([(0.0, low), (bar.figure.median, high)], colour.filled());
            rectangle.set_margin(4, 4, 0, 0);
            let middle = SegmentValue::CenterOf(index);
            let interval = PathElement::new(
                vec![(bar.figure.low, middle.clone()), (bar.figure.high, middle.clone())],
                BLACK,
            );
            let words = format!(" {}", scaled(bar.figure.median));
            let label = Text::new(words, (bar.figure.high, middle), ("sans-serif", 13));
            chart.draw_series([rectangle]).map_err(|err| failed(&err))?;
            chart.draw_series([interval]).map_err(|err| failed(&err))?;
            chart.draw_series([label]).map_err(|err| failed(&err))?;
        }
        area.present().map_err(|err| failed(&err))?;
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::super::Metric;
    use super::super::figures::Figure;
    use super::{Bar, draw};

    #[test]
    fn every_bar_has_its_name_and_its_figure() {
        let figure = Figure { median: 29_200.0, low: 28_000.0, high: 30_000.0, samples: 15 };
        let bars = ["none, 10 rules", "enforcer, 10 rules"].map(|name| Bar {
            name: name.to_owned(),
            figure,
            ours: name.starts_with("enforcer"),
        });
        let svg = draw(Metric::Connect, &bars).expect("drawn");
        assert!(svg.starts_with("<svg"), "{svg}");
        for words in ["none, 10 rules", "enforcer, 10 rules", "29.2 k", "connect, accept, close (/s)"] {
            assert!(svg.contains(words), "{words} in {svg}");
        }
    }
}
