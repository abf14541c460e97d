// A parsed template. Names of variables are numbers; the parser's table gives their texts.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "model/jinja/lexer.h"
#include "model/jinja/value.h"

namespace lanyard::model::jinja {

using NameId = uint32_t;

struct Expr;
using ExprPtr = std::unique_ptr<Expr>;

struct Arguments {
  std::vector<ExprPtr> positional;
  std::vector<std::pair<std::string, ExprPtr>> named;
};

enum class BinaryOp : uint8_t { kAdd, kSub, kMul, kDiv, kFloorDiv, kMod, kPow };
enum class CompareOp : uint8_t { kEq, kNe, kLt, kLe, kGt, kGe, kIn, kNotIn };

struct Expr {
  enum class Kind : uint8_t {
    kConstant,   // constant
    kName,       // name_id
    kList,       // items
    kTuple,      // items
    kDict,       // items: key, value, key, value
    kAttribute,  // items[0].text
    kItem,       // items[0][items[1]]
    kSlice,      // items[0][items[1]:items[2]:items[3]], null where absent
    kCall,       // items[0](arguments)
    kFilter,     // items[0]|text(arguments); items[0] is null for the body of a filter block
    kTest,       // items[0] is text(arguments)
    kNot,
    kNegative,
    kPositive,  // items[0]
    kAnd,
    kOr,           // items[0], items[1]
    kBinary,       // binary: items[0], items[1]
    kConcat,       // items
    kCompare,      // items[0] compares[0] items[1] compares[1] items[2] ...
    kConditional,  // items[0] if items[1] else items[2], which may be null
  };
  Kind kind;
  Position position;
  uint16_t depth = 1;  // depth of this tree
  Value constant;
  NameId name_id = 0;
  std::string text;
  std::vector<ExprPtr> items;
  Arguments arguments;
  BinaryOp binary = BinaryOp::kAdd;
  std::vector<CompareOp> compares;
};

// What {% set %} and {% for %} can assign to.
struct Target {
  Position position;
  NameId name = 0;
  std::string attribute;       // an attribute of the namespace `name`, where not empty
  std::vector<Target> unpack;  // a tuple of targets, where not empty
};

struct Statement;
using Body = std::vector<std::unique_ptr<Statement>>;

struct MacroNode {
  std::string name;
  NameId name_id = 0;
  std::vector<std::pair<NameId, std::string>> parameters;
  std::vector<ExprPtr> defaults;  // values of the last parameters
  Body body;
};

struct Statement {
  enum class Kind : uint8_t {
    kData,      // text
    kOutput,    // expr
    kIf,        // branches: condition (null for else) and body
    kFor,       // target, expr, condition, body, otherwise
    kSet,       // target, expr
    kSetBlock,  // target, body, expr (a chain of filters, or null)
    kMacro,     // macro
    kFilter,    // expr (a chain of filters), body
    kScope,     // body, with its own variables: {% with %}; assignments
    kGroup,     // body: {% generation %}
    kBreak,
    kContinue,
  };
  Kind kind;
  Position position;
  std::string text;
  ExprPtr expr;
  ExprPtr condition;
  Target target;
  Body body;
  Body otherwise;
  std::vector<std::pair<ExprPtr, Body>> branches;
  std::vector<std::pair<Target, ExprPtr>> assignments;
  std::unique_ptr<MacroNode> macro;
};

struct Template {
  Body body;
  std::vector<std::string> names;  // by NameId
};

}  // namespace lanyard::model::jinja
