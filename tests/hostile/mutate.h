// Alters messages field by field, as an attacker who knows the protocol would.
#pragma once

#include <google/protobuf/message.h>

#include <random>

namespace lanyard::hostile {

using Random = std::mt19937_64;

// Alters one to four fields at any depth: extreme numbers, NaN, unknown enum values, long, empty or
// binary texts, messages that are missing, repeated or thrown away.
void Mutate(google::protobuf::Message* message, Random* random);

}  // namespace lanyard::hostile
