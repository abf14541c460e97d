// The tables of filters, which two files fill.
#pragma once

#include <span>
#include <string_view>

#include "model/jinja/interpreter.h"

namespace lanyard::model::jinja {

using Filter = absl::StatusOr<Value> (*)(Interpreter&, const Value&, const Bound&);
struct FilterRow {
  std::string_view name;
  std::string_view parameters;
  Filter filter;
};

// map, select and similar filters, which hand arguments on to another filter or test.
using ItemFilter = absl::StatusOr<Value> (*)(Interpreter&, const Value&, const CallArguments&);

std::span<const FilterRow> ListFilters();
ItemFilter FindItemFilter(std::string_view name);  // null where there is none

}  // namespace lanyard::model::jinja
