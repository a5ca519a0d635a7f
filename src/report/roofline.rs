//! What kernels reach of a device's peaks, by how many operations they do on each byte, as one picture.

use super::page::render;
use super::plot::{self, Chart, Line};
use crate::Result;
use serde::Serialize;

/// One measurement.
#[derive(Clone, Debug)]
pub struct RoofPoint {
    /// What was measured.
    pub name: String,
    /// Floating-point operations on each byte.
    pub intensity: f64,
    /// Fraction of the peak that bounds it.
    pub share: f64,
}

/// What the template inserts.
#[derive(Serialize)]
struct Picture {
    chart: Chart,
    numbers: Vec<Number>,
    keys: Vec<Vec<Key>>,
}

/// The number beside a point.
#[derive(Serialize)]
struct Number {
    at: [String; 2],
    label: String,
}

/// What a number stands for, in the row of this number.
#[derive(Serialize)]
struct Key {
    row: usize,
    label: String,
}

/// The picture as SVG: a point for each measurement, with its number, and under them what the numbers stand for.
/// `ridge` is the intensity from which on operations bound and no longer bytes.
///
/// # Errors
/// The template is broken, which only a faulty build can cause.
pub fn roofline(title: &str, points: &[RoofPoint], ridge: f64) -> Result<String> {
    let places: Vec<[f64; 2]> = points.iter().map(|p| [p.intensity, p.share]).collect();
    let (chart, at) = plot::shares(&places, &[(ridge, "bytes bound | operations bound")]);
    let numbers =
        at.iter().zip(1..).map(|(at, n): (&[String; 2], usize)| Number { at: at.clone(), label: n.to_string() });
    let half = points.len().div_ceil(2);
    let key = |i: usize| {
        let RoofPoint { name, intensity, share } = points.get(i)?;
        Some(format!("{}  {name}: {:.0} % at {intensity:.2}", i + 1, share * 100.0))
    };
    let keys = (0..half).map(|row| {
        let both = [row, half + row].into_iter().filter_map(key);
        both.map(|label| Key { row, label }).collect()
    });
    let best = points.iter().max_by(|a, b| a.share.total_cmp(&b.share));
    let description = best.map_or(String::new(), |p| {
        format!(
            "{} measurements; {} reaches most, {:.0} % of the peak that bounds it.",
            points.len(),
            p.name,
            p.share * 100.0
        )
    });
    let chart = Chart {
        title: title.to_owned(),
        description,
        x_title: "floating-point operations on each byte".into(),
        lines: vec![Line { name: String::new(), path: String::new(), dots: at.clone() }],
        ..chart
    };
    let picture = Picture { numbers: numbers.collect(), keys: keys.collect(), chart };
    render("chart.svg.html", picture)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_measurement_is_a_point_with_a_key() {
        let point = |name: &str, intensity, share| RoofPoint { name: name.into(), intensity, share };
        let points = [point("copy <4>", 0.01, 0.9), point("product", 120.0, 0.5), point("none", 0.0, 0.1)];
        let svg = roofline("A device", &points, 10.0).unwrap();
        assert!(svg.trim_start().starts_with("<svg xmlns=") && svg.trim_end().ends_with("</svg>"), "{svg}");
        assert_eq!(svg.matches("<circle").count(), 3);
        assert!(svg.contains("1  copy &lt;4&gt;: 90 % at 0.01") && svg.contains("2  product: 50 % at 120.00"), "{svg}");
        assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
        assert!(roofline("Nothing", &[], 10.0).unwrap().contains("</svg>"));
    }
}
