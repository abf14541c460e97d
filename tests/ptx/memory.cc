// Memory: allocations between red zones, and which of their bytes were written.
#include <sys/mman.h>

#include <bit>
#include <cstdlib>
#include <new>

#include "tests/ptx/machine.h"
#include "tests/ptx/shadow.h"

namespace lanyard::ptx {

namespace {

constexpr uint64_t kRedZoneBytes = 4096;
constexpr uint64_t kPageBytes = 4096;
constexpr uint64_t kQuarantineBytes = 64 << 20;

void* MapZero(size_t bytes) {
  void* at = mmap(nullptr, bytes, PROT_READ | PROT_WRITE,
                  MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (at == MAP_FAILED) throw std::bad_alloc();
  return at;
}

// Calls f(word index, mask) for the words of a bit map that [offset, offset + bytes) touches; stops
// when f returns false.
template <typename F>
bool ForWords(uint64_t offset, uint64_t bytes, F f) {
  const uint64_t end = offset + bytes;
  while (offset < end) {
    const uint64_t in_word = offset & 63;
    const uint64_t n = std::min<uint64_t>(64 - in_word, end - offset);
    const uint64_t mask = (n == 64 ? ~uint64_t{0} : ((uint64_t{1} << n) - 1)) << in_word;
    if (!f(offset >> 6, mask)) return false;
    offset += n;
  }
  return true;
}

}  // namespace

bool AllSet(const uint64_t* map, uint64_t offset, uint64_t bytes) {
  return ForWords(offset, bytes,
                  [&](uint64_t i, uint64_t mask) { return (map[i] & mask) == mask; });
}
uint64_t SetBits(uint64_t* map, uint64_t offset, uint64_t bytes) {
  uint64_t changed = 0;
  ForWords(offset, bytes, [&](uint64_t i, uint64_t mask) {
    changed += static_cast<uint64_t>(std::popcount(mask & ~map[i]));
    map[i] |= mask;
    return true;
  });
  return changed;
}
uint64_t ClearBits(uint64_t* map, uint64_t offset, uint64_t bytes) {
  uint64_t changed = 0;
  ForWords(offset, bytes, [&](uint64_t i, uint64_t mask) {
    changed += static_cast<uint64_t>(std::popcount(mask & map[i]));
    map[i] &= ~mask;
    return true;
  });
  return changed;
}
int64_t FirstClear(const uint64_t* map, uint64_t offset, uint64_t bytes) {
  int64_t found = -1;
  ForWords(offset, bytes, [&](uint64_t i, uint64_t mask) {
    const uint64_t clear = mask & ~map[i];
    if (clear == 0) return true;
    found = static_cast<int64_t>(i * 64) + std::countr_zero(clear);
    return false;
  });
  return found;
}

CellTable::~CellTable() {
  if (words_ != nullptr) munmap(words_, (size_ / 4 + 4) * sizeof(Cell));
  if (bytes_ != nullptr) munmap(bytes_, (size_ + 16) * sizeof(Cell));
}

void CellTable::Resize(size_t bytes) {
  this->~CellTable();
  size_ = bytes;
  words_ = static_cast<Cell*>(MapZero((bytes / 4 + 4) * sizeof(Cell)));
  bytes_ = static_cast<Cell*>(MapZero((bytes + 16) * sizeof(Cell)));
}

Allocation::~Allocation() {
  if (mapping != 0) munmap(reinterpret_cast<void*>(mapping), mapping_bytes);
  std::free(written);
}

Allocation* Memory::Impl::Near(uint64_t address) const {
  auto after = allocations.upper_bound(address);
  if (after != allocations.begin()) {
    Allocation* before = std::prev(after)->second.get();
    if (address < before->base + before->bytes + kRedZoneBytes) return before;
  }
  if (after != allocations.end() && address + kRedZoneBytes >= after->second->base)
    return after->second.get();
  return nullptr;
}

Allocation* Memory::Impl::Holding(uint64_t address, uint64_t bytes) const {
  Allocation* a = Near(address);
  if (a == nullptr || !a->live || address < a->base) return nullptr;
  const uint64_t offset = address - a->base;
  return offset <= a->bytes && bytes <= a->bytes - offset ? a : nullptr;
}

std::string Memory::Impl::Describe(uint64_t address) const {
  const Allocation* a = Near(address);
  const std::string hex = absl::StrFormat("0x%x", address);
  if (a == nullptr) return absl::StrCat(hex, " (no allocation near)");
  const char* freed = a->live ? "" : ", freed";
  if (address < a->base)
    return absl::StrCat(hex, " (", a->base - address, " bytes before ", a->name, ", ", a->bytes,
                        " bytes", freed, ")");
  const uint64_t offset = address - a->base;
  if (offset >= a->bytes) {
    return absl::StrCat(hex, " (", a->name, " + ", offset, ", ", offset - a->bytes,
                        " bytes past its end, ", a->bytes, " bytes", freed, ")");
  }
  return absl::StrCat(hex, " (", a->name, " + ", offset, " of ", a->bytes, " bytes", freed, ")");
}

Memory::Memory() : impl_(std::make_unique<Impl>()) {}
Memory::~Memory() = default;

uint64_t Memory::Alloc(size_t bytes, std::string_view name) {
  auto a = std::make_unique<Allocation>();
  a->bytes = bytes;
  a->name = std::string(name);
  a->mapping_bytes = (bytes + kPageBytes - 1) / kPageBytes * kPageBytes + 2 * kRedZoneBytes;
  a->mapping = reinterpret_cast<uint64_t>(MapZero(a->mapping_bytes));
  a->base = a->mapping + kRedZoneBytes;
  a->unwritten = bytes;
  a->written = static_cast<uint64_t*>(std::calloc(bytes / 64 + 1, 8));
  if (a->written == nullptr) throw std::bad_alloc();
  impl_->live_bytes += bytes;
  ++impl_->live_count;
  const uint64_t base = a->base;
  impl_->allocations[base] = std::move(a);
  return base;
}

absl::Status Memory::Free(uint64_t address) {
  const auto found = impl_->allocations.find(address);
  if (found == impl_->allocations.end() || !found->second->live) {
    return InvalidArgument("freeing ", impl_->Describe(address),
                           ", which is not the beginning of live memory");
  }
  Allocation& a = *found->second;
  a.live = false;
  impl_->live_bytes -= a.bytes;
  --impl_->live_count;
  if (a.bytes > kQuarantineBytes / 4) {  // keep the addresses, not the pages
    mprotect(reinterpret_cast<void*>(a.mapping), a.mapping_bytes, PROT_NONE);
    madvise(reinterpret_cast<void*>(a.mapping), a.mapping_bytes, MADV_DONTNEED);
  } else {
    std::memset(reinterpret_cast<void*>(a.base), 0xDD, a.bytes);
  }
  a.cells.~CellTable();
  new (&a.cells) CellTable;
  impl_->freed.push_back(address);
  impl_->freed_bytes += a.bytes;
  while (impl_->freed_bytes > kQuarantineBytes && impl_->freed.size() > 1) {
    const auto oldest = impl_->allocations.find(impl_->freed.front());
    impl_->freed_bytes -= oldest->second->bytes;
    impl_->allocations.erase(oldest);
    impl_->freed.pop_front();
  }
  return absl::OkStatus();
}

absl::Status Memory::CheckRange(uint64_t address, size_t bytes) const {
  if (impl_->Holding(address, bytes) != nullptr) return absl::OkStatus();
  return InvalidArgument(bytes, " bytes at ", impl_->Describe(address),
                         " are not within one live allocation");
}

absl::Status Memory::MarkInitialised(uint64_t address, size_t bytes) {
  RETURN_IF_ERROR(CheckRange(address, bytes));
  Allocation* a = impl_->Holding(address, bytes);
  if (a->unwritten != 0) a->unwritten -= SetBits(a->written, address - a->base, bytes);
  return absl::OkStatus();
}

absl::Status Memory::MarkUninitialised(uint64_t address, size_t bytes) {
  RETURN_IF_ERROR(CheckRange(address, bytes));
  Allocation* a = impl_->Holding(address, bytes);
  a->unwritten += ClearBits(a->written, address - a->base, bytes);
  return absl::OkStatus();
}

bool Memory::IsInitialised(uint64_t address, size_t bytes) const {
  const Allocation* a = impl_->Holding(address, bytes);
  return a != nullptr && (a->unwritten == 0 || AllSet(a->written, address - a->base, bytes));
}

absl::Status Memory::Write(uint64_t address, const void* from, size_t bytes) {
  RETURN_IF_ERROR(MarkInitialised(address, bytes));
  if (bytes != 0) std::memcpy(reinterpret_cast<void*>(address), from, bytes);
  return absl::OkStatus();
}

absl::Status Memory::Read(uint64_t address, void* to, size_t bytes) const {
  RETURN_IF_ERROR(CheckRange(address, bytes));
  const Allocation* a = impl_->Holding(address, bytes);
  if (a->unwritten != 0) {
    const int64_t first = FirstClear(a->written, address - a->base, bytes);
    if (first >= 0) {
      return Internal("reading ", bytes, " bytes at ", impl_->Describe(address), ": byte ",
                      impl_->Describe(a->base + static_cast<uint64_t>(first)),
                      " was never written");
    }
  }
  if (bytes != 0) std::memcpy(to, reinterpret_cast<const void*>(address), bytes);
  return absl::OkStatus();
}

absl::Status Memory::Copy(uint64_t to, uint64_t from, size_t bytes) {
  RETURN_IF_ERROR(CheckRange(to, bytes));
  RETURN_IF_ERROR(CheckRange(from, bytes));
  if (bytes == 0) return absl::OkStatus();
  std::memmove(reinterpret_cast<void*>(to), reinterpret_cast<const void*>(from), bytes);
  const Allocation* source = impl_->Holding(from, bytes);
  if (source->unwritten == 0 || AllSet(source->written, from - source->base, bytes))
    return MarkInitialised(to, bytes);
  std::vector<bool> bits(bytes);
  for (size_t i = 0; i < bytes; ++i) bits[i] = AllSet(source->written, from - source->base + i, 1);
  Allocation* a = impl_->Holding(to, bytes);
  for (size_t i = 0; i < bytes; ++i) {
    const uint64_t offset = to - a->base + i;
    if (bits[i]) {
      a->unwritten -= SetBits(a->written, offset, 1);
    } else {
      a->unwritten += ClearBits(a->written, offset, 1);
    }
  }
  return absl::OkStatus();
}

absl::Status Memory::Set(uint64_t address, uint8_t value, size_t bytes) {
  RETURN_IF_ERROR(MarkInitialised(address, bytes));
  if (bytes != 0) std::memset(reinterpret_cast<void*>(address), value, bytes);
  return absl::OkStatus();
}

size_t Memory::live_bytes() const { return impl_->live_bytes; }
size_t Memory::live_allocations() const { return impl_->live_count; }
std::string Memory::Describe(uint64_t address) const { return impl_->Describe(address); }

}  // namespace lanyard::ptx
