//! The metrics that have one series for each RPC. Calls of unknown methods share one.

use std::{collections::HashMap, fmt, sync::Arc};

use prometheus_client::{
    encoding::{EncodeMetric, MetricEncoder, NoLabelSet},
    metrics::MetricType,
};

use super::{
    GrpcCode,
    series::{Counter, LabelSet, PerLabel},
};

/// The name of everything that is unknown about a call.
const UNKNOWN: &str = "unknown";

/// A method that the service serves.
#[derive(Clone, Debug)]
pub(crate) struct ServedMethod {
    /// With its package.
    pub service: String,
    pub method: String,
    /// `unary`, `client_stream`, `server_stream` or `bidi_stream`.
    pub kind: &'static str,
}

/// The place of a method among the served methods.
#[derive(Clone, Copy, Debug)]
pub(crate) struct MethodIndex(usize);

/// The methods that the service serves, and one that stands for all others. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct ServedMethods(Arc<MethodTable>);

#[derive(Debug)]
struct MethodTable {
    /// The last one stands for unknown methods.
    methods: Vec<ServedMethod>,
    by_path: HashMap<String, usize>,
}

impl ServedMethods {
    pub(crate) fn new(mut methods: Vec<ServedMethod>) -> Self {
        let by_path = methods.iter().map(|served| format!("/{}/{}", served.service, served.method)).zip(0..).collect();
        methods.push(ServedMethod { service: UNKNOWN.into(), method: UNKNOWN.into(), kind: UNKNOWN });
        Self(Arc::new(MethodTable { methods, by_path }))
    }

    /// The method at this path.
    pub(crate) fn at(&self, path: &str) -> MethodIndex {
        let unknown = self.0.methods.len() - 1;
        MethodIndex(self.0.by_path.get(path).copied().unwrap_or(unknown))
    }

    pub(crate) fn get(&self, MethodIndex(index): MethodIndex) -> Option<&ServedMethod> {
        self.0.methods.get(index)
    }

    pub(super) fn indexes(&self) -> impl Iterator<Item = MethodIndex> {
        (0..self.0.methods.len()).map(MethodIndex)
    }

    fn pairs(&self) -> impl Iterator<Item = Vec<(&str, &str)>> {
        self.0.methods.iter().map(|ServedMethod { service, method, kind }| {
            vec![("grpc_type", *kind), ("grpc_service", service.as_str()), ("grpc_method", method.as_str())]
        })
    }
}

/// A metric with one series for each method.
#[derive(Clone, Debug)]
pub(crate) struct PerMethod<M> {
    methods: ServedMethods,
    series: Arc<[M]>,
}

impl<M> PerMethod<M> {
    pub(super) fn new(methods: &ServedMethods, make: impl Fn() -> M) -> Self {
        Self { methods: methods.clone(), series: methods.indexes().map(|_| make()).collect() }
    }

    pub(crate) fn of(&self, MethodIndex(index): MethodIndex) -> Option<&M> {
        self.series.get(index)
    }
}

impl<M: EncodeMetric> EncodeMetric for PerMethod<M> {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> fmt::Result {
        for (pairs, metric) in self.methods.pairs().zip(self.series.iter()) {
            metric.encode(encoder.encode_family(&pairs)?)?;
        }
        Ok(())
    }

    fn metric_type(&self) -> MetricType {
        self.series.first().map_or(MetricType::Unknown, EncodeMetric::metric_type)
    }
}

/// A counter with one series for each method and status.
#[derive(Clone, Debug)]
pub(crate) struct PerMethodAndCode {
    methods: ServedMethods,
    series: Arc<[PerLabel<GrpcCode, Counter>]>,
}

impl PerMethodAndCode {
    pub(super) fn new(methods: &ServedMethods) -> Self {
        Self { methods: methods.clone(), series: methods.indexes().map(|_| PerLabel::default()).collect() }
    }

    pub(crate) fn inc(&self, MethodIndex(index): MethodIndex, code: GrpcCode) {
        if let Some(codes) = self.series.get(index) {
            codes.inc(code);
        }
    }

    /// The count of all statuses.
    pub(super) fn sum(&self, MethodIndex(index): MethodIndex) -> u64 {
        let codes = self.series.get(index).into_iter();
        codes
            .flat_map(|codes| GrpcCode::all().into_iter().filter_map(move |code| codes.of(code)))
            .map(Counter::get)
            .sum()
    }
}

impl EncodeMetric for PerMethodAndCode {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> fmt::Result {
        for (method, codes) in self.methods.pairs().zip(self.series.iter()) {
            for code in GrpcCode::all() {
                let pairs = [method.as_slice(), code.pairs().as_slice()].concat();
                let count = codes.of(code).map_or(0, Counter::get);
                encoder.encode_family(&pairs)?.encode_counter::<NoLabelSet, _, u64>(&count, None)?;
            }
        }
        Ok(())
    }

    fn metric_type(&self) -> MetricType {
        MetricType::Counter
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_methods_are_one() {
        let served = |service: &str, method: &str| ServedMethod {
            service: service.to_owned(),
            method: method.to_owned(),
            kind: "unary",
        };
        let methods = ServedMethods::new(vec![served("a.B", "C"), served("a.B", "D")]);
        let at = |path: &str| {
            let MethodIndex(index) = methods.at(path);
            index
        };
        assert_eq!((at("/a.B/C"), at("/a.B/D")), (0, 1));
        for path in ["", "/", "/a.B/E", "/a.B/C/", "a.B/C", "/x/y", "/a.B/c"] {
            assert_eq!(at(path), 2, "{path}");
        }
    }
}
