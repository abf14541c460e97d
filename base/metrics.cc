#include "base/metrics.h"

#include <prometheus/counter.h>
#include <prometheus/family.h>
#include <prometheus/gauge.h>
#include <prometheus/histogram.h>
#include <prometheus/registry.h>
#include <prometheus/text_serializer.h>

namespace lanyard {

struct Metrics::Impl {
  explicit Impl(Labels constant) : labels(std::move(constant)) {}

  // For a name that is there already, the registry returns the same family, and the family the same
  // metric.
  prometheus::Counter& CounterOf(const Description& d, const Labels& more) {
    return prometheus::BuildCounter()
        .Name(d.name)
        .Help(d.help)
        .Labels(labels)
        .Register(registry)
        .Add(more);
  }
  prometheus::Gauge& GaugeOf(const Description& d, const Labels& more) {
    return prometheus::BuildGauge().Name(d.name).Help(d.help).Labels(labels).Register(registry).Add(
        more);
  }
  prometheus::Histogram& HistogramOf(const Description& d, const std::vector<double>& buckets) {
    return prometheus::BuildHistogram()
        .Name(d.name)
        .Help(d.help)
        .Labels(labels)
        .Register(registry)
        .Add({}, buckets);
  }

  const Labels labels;
  prometheus::Registry registry{prometheus::Registry::InsertBehavior::Merge};
};

Metrics::Metrics(Labels labels) : impl_(std::make_unique<Impl>(std::move(labels))) {}
Metrics::~Metrics() = default;

void Metrics::Declare(const Description& counter, const Labels& labels) {
  impl_->CounterOf(counter, labels);
}

void Metrics::Declare(const Description& histogram, const std::vector<double>& buckets) {
  impl_->HistogramOf(histogram, buckets);
}

void Metrics::Add(const Description& counter, double value, const Labels& labels) {
  impl_->CounterOf(counter, labels).Increment(value);
}

void Metrics::RaiseTo(const Description& counter, double total, const Labels& labels) {
  prometheus::Counter& metric = impl_->CounterOf(counter, labels);
  const double missing = total - metric.Value();
  if (missing > 0) metric.Increment(missing);
}

void Metrics::Set(const Description& gauge, double value, const Labels& labels) {
  impl_->GaugeOf(gauge, labels).Set(value);
}

void Metrics::Observe(const Description& histogram, const std::vector<double>& buckets,
                      double value) {
  impl_->HistogramOf(histogram, buckets).Observe(value);
}

std::string Metrics::Text() const {
  return prometheus::TextSerializer().Serialize(impl_->registry.Collect());
}

}  // namespace lanyard
