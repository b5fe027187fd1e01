//! Families of samples, written one after the other.

use std::fmt;

use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;

/// Labels of one sample.
pub type Labels<'l> = Vec<(&'static str, &'l str)>;

/// A histogram's sample: sum, count, and how many fell into each bucket by its upper end.
pub struct Buckets {
    pub sum: f64,
    pub count: u64,
    pub buckets: Vec<(f64, u64)>,
}

/// Where families go.
pub struct Sheet<'e>(DescriptorEncoder<'e>);

impl<'e> Sheet<'e> {
    pub fn new(encoder: DescriptorEncoder<'e>) -> Self {
        Sheet(encoder)
    }

    /// Counts that only grow; `name` is without its `_total`.
    pub fn counters<'l>(
        &mut self,
        (name, about): (&str, &str),
        samples: impl IntoIterator<Item = (Labels<'l>, u64)>,
    ) -> fmt::Result {
        let mut metric = self.0.encode_descriptor(name, about, None, MetricType::Counter)?;
        for (labels, value) in samples {
            ConstCounter::new(value).encode(metric.encode_family(&labels)?)?;
        }
        Ok(())
    }

    /// Seconds, or another amount that grows by fractions.
    pub fn amounts<'l>(
        &mut self,
        (name, about): (&str, &str),
        samples: impl IntoIterator<Item = (Labels<'l>, f64)>,
    ) -> fmt::Result {
        let mut metric = self.0.encode_descriptor(name, about, None, MetricType::Counter)?;
        for (labels, value) in samples {
            ConstCounter::new(value).encode(metric.encode_family(&labels)?)?;
        }
        Ok(())
    }

    /// What is so now.
    pub fn gauges<'l>(
        &mut self,
        (name, about): (&str, &str),
        samples: impl IntoIterator<Item = (Labels<'l>, u64)>,
    ) -> fmt::Result {
        let mut metric = self.0.encode_descriptor(name, about, None, MetricType::Gauge)?;
        for (labels, value) in samples {
            ConstGauge::new(value).encode(metric.encode_family(&labels)?)?;
        }
        Ok(())
    }

    /// One of it, without labels.
    pub fn gauge(&mut self, (name, about): (&str, &str), value: f64) -> fmt::Result {
        let metric = self.0.encode_descriptor(name, about, None, MetricType::Gauge)?;
        ConstGauge::new(value).encode(metric)
    }

    /// A count without labels.
    pub fn counter(&mut self, (name, about): (&str, &str), value: u64) -> fmt::Result {
        let metric = self.0.encode_descriptor(name, about, None, MetricType::Counter)?;
        ConstCounter::new(value).encode(metric)
    }

    /// How something is spread.
    pub fn histograms<'l>(
        &mut self,
        (name, about): (&str, &str),
        samples: impl IntoIterator<Item = (Labels<'l>, Buckets)>,
    ) -> fmt::Result {
        let mut metric = self.0.encode_descriptor(name, about, None, MetricType::Histogram)?;
        for (labels, Buckets { sum, count, buckets }) in samples {
            let mut one = metric.encode_family(&labels)?;
            one.encode_histogram::<NoLabelSet>(sum, count, &buckets, None)?;
        }
        Ok(())
    }
}
