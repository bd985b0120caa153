//! From samples to figures: medians, ratios within a round, and how sure they are. Pure.

use serde::Serialize;

/// How often samples are drawn anew for an interval.
const RESAMPLES: usize = 2000;

/// A median with its 95 % interval, by the bootstrap.
#[derive(Clone, Copy, PartialEq, Debug, Serialize)]
pub struct Figure {
    /// The median.
    pub median: f64,
    /// Where the interval begins.
    pub low: f64,
    /// Where it ends.
    pub high: f64,
    /// Of how many samples.
    pub samples: usize,
}

impl Figure {
    /// The figure of samples; `None` if there are none.
    pub fn of(samples: &[f64]) -> Option<Self> {
        if samples.is_empty() {
            return None;
        }
        let mut random = Random(0x9e37_79b9_7f4a_7c15);
        let mut drawn = vec![0.0; samples.len()];
        let mut medians: Vec<f64> = (0..RESAMPLES)
            .map(|_| {
                for place in &mut drawn {
                    *place = samples[random.below(samples.len())];
                }
                median(&mut drawn)
            })
            .collect();
        medians.sort_by(f64::total_cmp);
        let at = |hundredths: usize| medians[(medians.len() - 1) * hundredths / 1000];
        let (low, high) = (at(25), at(975));
        let median = median(&mut samples.to_vec());
        Some(Self { median, low, high, samples: samples.len() })
    }
}

/// What a variant made of each round, as a part of what the baseline made of it. The baseline is measured before and
/// after the variants of a round, and its mean stands for the time between: so a machine that grows slower or faster does
/// not count.
pub fn ratios(variant: &[f64], baseline: &[(f64, f64)]) -> Vec<f64> {
    variant.iter().zip(baseline).map(|(sample, (before, after))| sample / ((before + after) / 2.0)).collect()
}

/// How far half of the samples and more are from their median, as a part of it.
pub fn wavering(samples: &[f64]) -> f64 {
    let middle = median(&mut samples.to_vec());
    median(&mut samples.iter().map(|sample| (sample / middle - 1.0).abs()).collect::<Vec<_>>())
}

fn median(samples: &mut [f64]) -> f64 {
    samples.sort_by(f64::total_cmp);
    let middle = samples.len() / 2;
    match samples {
        [] => f64::NAN,
        _ if samples.len() % 2 == 1 => samples[middle],
        _ => (samples[middle - 1] + samples[middle]) / 2.0,
    }
}

/// SplitMix64, so that the same samples always give the same interval.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^= mixed >> 31;
        usize::try_from(mixed >> 33).unwrap_or(0) % limit
    }
}

#[cfg(test)]
mod tests {
    use super::{Figure, ratios, wavering};

    #[test]
    fn the_interval_holds_the_median_and_is_narrow_where_samples_agree() {
        let same = Figure::of(&[2.0; 9]).expect("samples");
        assert_eq!((same.low, same.median, same.high), (2.0, 2.0, 2.0));
        let spread: Vec<f64> = (0..15).map(f64::from).collect();
        let figure = Figure::of(&spread).expect("samples");
        assert!(figure.low < figure.median && figure.median < figure.high, "{figure:?}");
        assert!(figure.low >= 1.0 && figure.high <= 13.0, "{figure:?}");
        assert_eq!(figure.median, 7.0);
        assert_eq!(Figure::of(&[1.0, 2.0]).map(|figure| figure.median), Some(1.5));
        assert_eq!(Figure::of(&spread), Some(figure), "an interval is the same every time");
        assert_eq!(Figure::of(&[]), None);
    }

    #[test]
    fn one_wild_sample_does_not_move_the_figure() {
        let mut samples = vec![1.0; 15];
        samples[7] = 100.0;
        let figure = Figure::of(&samples).expect("samples");
        assert_eq!((figure.median, figure.high), (1.0, 1.0));
    }

    #[test]
    fn what_wavers_is_told_and_one_wild_sample_is_not() {
        assert!((wavering(&[90.0, 110.0, 100.0, 90.0, 110.0]) - 0.1).abs() < 1e-9);
        assert_eq!(wavering(&[100.0, 100.0, 100.0, 1.0]), 0.0);
    }

    #[test]
    fn a_machine_that_slows_down_leaves_ratios_as_they_are() {
        let baseline = [(100.0, 80.0), (80.0, 60.0)];
        assert_eq!(ratios(&[90.0, 70.0], &baseline), [1.0, 1.0]);
        assert_eq!(ratios(&[45.0], &baseline), [0.5]);
    }
}
