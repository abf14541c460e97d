#include "tests/hostile/mutate.h"

#include <array>
#include <limits>
#include <string>
#include <vector>

namespace lanyard::hostile {
namespace {

using google::protobuf::FieldDescriptor;
using google::protobuf::Message;
using google::protobuf::Reflection;

template <typename T>
T Number(Random* random) {
  using L = std::numeric_limits<T>;
  const std::array<T, 10> interesting = {T{0},
                                         T{1},
                                         L::max(),
                                         L::lowest(),
                                         static_cast<T>(L::max() / 2),
                                         T{2},
                                         static_cast<T>(-1),
                                         T{127},
                                         static_cast<T>(65536),
                                         static_cast<T>(1 << 20)};
  if ((*random)() % 4 == 0) return static_cast<T>((*random)());
  return interesting[(*random)() % interesting.size()];
}

template <typename T>
T Real(Random* random) {
  using L = std::numeric_limits<T>;
  const std::array<T, 8> interesting = {T{0},           T{-0.0},  L::quiet_NaN(),  L::infinity(),
                                        -L::infinity(), L::max(), L::denorm_min(), T{-1}};
  return interesting[(*random)() % interesting.size()];
}

std::string Text(Random* random, const std::string& before) {
  std::string text = before;
  switch ((*random)() % 5) {
    case 0:
      return "";
    case 1:
      return text + std::string((*random)() % 8192, 'x');
    case 2:
      return text.substr(0, text.size() / 2);
    case 3:
      return "../../etc/passwd\r\n\x1b[2J";
    default:
      text += 'x';
      text[(*random)() % text.size()] ^= static_cast<char>(1 << (*random)() % 7);
      return text;
  }
}

// Proto3's strings are UTF-8 on the wire, else the other side's parser ends it before any check of
// ours.
std::string Ascii(std::string text) {
  for (char& c : text) c = static_cast<char>(c & 0x7f);
  return text;
}

void SetOne(Message* m, const FieldDescriptor* f, Random* random) {
  const Reflection* r = m->GetReflection();
  switch (f->cpp_type()) {
    case FieldDescriptor::CPPTYPE_INT32:
      return r->SetInt32(m, f, Number<int32_t>(random));
    case FieldDescriptor::CPPTYPE_UINT32:
      return r->SetUInt32(m, f, Number<uint32_t>(random));
    case FieldDescriptor::CPPTYPE_INT64:
      return r->SetInt64(m, f, Number<int64_t>(random));
    case FieldDescriptor::CPPTYPE_UINT64:
      return r->SetUInt64(m, f, Number<uint64_t>(random));
    case FieldDescriptor::CPPTYPE_DOUBLE:
      return r->SetDouble(m, f, Real<double>(random));
    case FieldDescriptor::CPPTYPE_FLOAT:
      return r->SetFloat(m, f, Real<float>(random));
    case FieldDescriptor::CPPTYPE_BOOL:
      return r->SetBool(m, f, (*random)() % 2 == 0);
    case FieldDescriptor::CPPTYPE_ENUM:
      return r->SetEnumValue(m, f, Number<int32_t>(random));
    case FieldDescriptor::CPPTYPE_STRING: {
      const std::string text = Text(random, r->GetString(*m, f));
      return r->SetString(m, f, f->type() == FieldDescriptor::TYPE_BYTES ? text : Ascii(text));
    }
    case FieldDescriptor::CPPTYPE_MESSAGE:
      if ((*random)() % 6 == 0) return r->ClearField(m, f);
      return Mutate(r->MutableMessage(m, f), random);
  }
}

void AddOne(Message* m, const FieldDescriptor* f, Random* random) {
  const Reflection* r = m->GetReflection();
  switch (f->cpp_type()) {
    case FieldDescriptor::CPPTYPE_INT32:
      return r->AddInt32(m, f, Number<int32_t>(random));
    case FieldDescriptor::CPPTYPE_UINT32:
      return r->AddUInt32(m, f, Number<uint32_t>(random));
    case FieldDescriptor::CPPTYPE_UINT64:
      return r->AddUInt64(m, f, Number<uint64_t>(random));
    case FieldDescriptor::CPPTYPE_FLOAT:
      return r->AddFloat(m, f, Real<float>(random));
    case FieldDescriptor::CPPTYPE_MESSAGE:
      r->AddMessage(m, f);
      if (const int n = r->FieldSize(*m, f); n > 1 && (*random)() % 2 == 0) {
        r->MutableRepeatedMessage(m, f, n - 1)
            ->CopyFrom(r->GetRepeatedMessage(*m, f, 0));  // the same once more
      }
      return;
    default:
      return;  // no other repeated fields in the protocol
  }
}

void MutateRepeated(Message* m, const FieldDescriptor* f, Random* random) {
  const Reflection* r = m->GetReflection();
  const int n = r->FieldSize(*m, f);
  switch (n == 0 ? 0 : (*random)() % 5) {
    case 0:
      return AddOne(m, f, random);
    case 1:
      return r->ClearField(m, f);
    case 2:
      return r->RemoveLast(m, f);
    case 3:
      for (int i = 0, more = 1 << (*random)() % 11; i < more; ++i) AddOne(m, f, random);
      return;
    default:
      if (f->cpp_type() != FieldDescriptor::CPPTYPE_MESSAGE) return AddOne(m, f, random);
      return Mutate(r->MutableRepeatedMessage(m, f, static_cast<int>((*random)() % n)), random);
  }
}

}  // namespace

void Mutate(Message* message, Random* random) {
  const auto* type = message->GetDescriptor();
  if (type->field_count() == 0) return;
  for (uint64_t i = 0, n = 1 + (*random)() % 4; i < n; ++i) {
    const FieldDescriptor* field = type->field(static_cast<int>((*random)() % type->field_count()));
    if (field->is_repeated()) {
      MutateRepeated(message, field, random);
    } else {
      SetOne(message, field, random);
    }
  }
}

}  // namespace lanyard::hostile
