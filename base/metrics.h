// Counters, gauges and histograms in Prometheus' text format, over prometheus-cpp, which stays out
// of this header.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

namespace lanyard {

// Names and labels are the program's own, never a user's: an invalid one is a bug and ends the
// process. Thread-safe.
class Metrics {
 public:
  using Labels = std::map<std::string, std::string>;

  // Every sample carries `labels`.
  explicit Metrics(Labels labels);
  ~Metrics();
  Metrics(const Metrics&) = delete;
  Metrics& operator=(const Metrics&) = delete;

  struct Description {
    const char* name;  // the full name, with _total and unit
    const char* help;
  };
  // Shows the metric with 0 although nothing has happened yet.
  void Declare(const Description& counter, const Labels& labels = {});
  void Declare(const Description& histogram, const std::vector<double>& buckets);

  void Add(const Description& counter, double value, const Labels& labels = {});
  // Raises a counter to a total that is kept elsewhere; a lower total is ignored.
  void RaiseTo(const Description& counter, double total, const Labels& labels = {});
  void Set(const Description& gauge, double value, const Labels& labels = {});
  // `buckets` are upper bounds, ascending, and the same at every call for one name.
  void Observe(const Description& histogram, const std::vector<double>& buckets, double value);

  std::string Text() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace lanyard
