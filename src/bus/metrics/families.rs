//! Families of metrics, as they are written.

use std::fmt;

use prometheus_client::encoding::{DescriptorEncoder, EncodeGaugeValue, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Unit;

use crate::histogram::HistogramSnapshot;

/// One label with its value, or none.
pub(super) type Labels<'a> = Option<(&'static str, &'a str)>;

/// What a family is called, without its unit and `_total`, and what it tells.
pub(super) struct About<'a>(pub(super) &'a str, pub(super) &'a str);

/// Writes families, one after the other.
pub(super) struct Families<'a>(pub(super) DescriptorEncoder<'a>);

impl Families<'_> {
    pub(super) fn gauge(
        &mut self,
        about: &About<'_>,
        unit: Option<&Unit>,
        value: impl EncodeGaugeValue,
    ) -> fmt::Result {
        self.gauges(about, unit, [(None, value)])
    }

    pub(super) fn gauges<'l>(
        &mut self,
        About(name, help): &About<'_>,
        unit: Option<&Unit>,
        rows: impl IntoIterator<Item = (Labels<'l>, impl EncodeGaugeValue)>,
    ) -> fmt::Result {
        let mut encoder = self.0.encode_descriptor(name, help, unit, MetricType::Gauge)?;
        for (labels, value) in rows {
            match labels {
                None => encoder.encode_gauge(&value)?,
                Some(label) => encoder.encode_family(&[label])?.encode_gauge(&value)?,
            }
        }
        Ok(())
    }

    pub(super) fn counter(&mut self, about: &About<'_>, unit: Option<&Unit>, value: u64) -> fmt::Result {
        self.counters(about, unit, [(None, value)])
    }

    pub(super) fn counters<'l>(
        &mut self,
        About(name, help): &About<'_>,
        unit: Option<&Unit>,
        rows: impl IntoIterator<Item = (Labels<'l>, u64)>,
    ) -> fmt::Result {
        let mut encoder = self.0.encode_descriptor(name, help, unit, MetricType::Counter)?;
        for (labels, value) in rows {
            match labels {
                None => encoder.encode_counter::<NoLabelSet, _, u64>(&value, None)?,
                Some(label) => {
                    encoder.encode_family(&[label])?.encode_counter::<NoLabelSet, _, u64>(&value, None)?;
                }
            }
        }
        Ok(())
    }

    /// Histograms whose values are `scale` of the unit: a billion for nanoseconds as seconds.
    pub(super) fn histograms<'l>(
        &mut self,
        About(name, help): &About<'_>,
        (unit, scale): (Option<&Unit>, f64),
        rows: impl IntoIterator<Item = (Labels<'l>, HistogramSnapshot)>,
    ) -> fmt::Result {
        let mut encoder = self.0.encode_descriptor(name, help, unit, MetricType::Histogram)?;
        for (labels, snapshot) in rows {
            let bound = |bound: Option<u64>| bound.map_or(f64::INFINITY, |bound| bound as f64 / scale);
            let buckets: Vec<_> = snapshot.buckets().map(|(upper, count)| (bound(upper), count)).collect();
            let (sum, count) = (snapshot.sum() as f64 / scale, snapshot.count());
            match labels {
                None => encoder.encode_histogram::<NoLabelSet>(sum, count, &buckets, None)?,
                Some(label) => {
                    let label = [label];
                    let mut one = encoder.encode_family(&label)?;
                    one.encode_histogram::<NoLabelSet>(sum, count, &buckets, None)?;
                }
            }
        }
        Ok(())
    }

    /// What is always 1 and tells something by its label.
    pub(super) fn info(&mut self, About(name, help): &About<'_>, label: (&'static str, &str)) -> fmt::Result {
        let mut encoder = self.0.encode_descriptor(name, help, None, MetricType::Info)?;
        encoder.encode_info(&[label])
    }
}
