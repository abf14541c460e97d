#include "worker/weight_store.h"

#include <gtest/gtest.h>
#include <sys/mount.h>
#include <sys/stat.h>

#include <chrono>
#include <filesystem>
#include <fstream>

#include "base/file.h"
#include "worker/process.h"
#include "worker/testing_util.h"

namespace lanyard::worker {
namespace {

class WeightStoreTest : public ::testing::Test {
 protected:
  WeightStoreTest() : parts_(model::PartsOfStage(*model_.manifest(), 0, 1, true, false)) {
    for (const std::string& name : parts_) total_bytes_ += model_.manifest()->Find(name)->bytes;
  }

  FetchPart Fetch() {
    return
        [this](const std::string& sha256, uint64_t offset, std::stop_token stop,
               const std::function<absl::Status(std::span<const uint8_t>)>& take) -> absl::Status {
          ++fetches_;
          first_offset_ = offset;
          std::vector<uint8_t> bytes = model_.PartBytes(sha256);
          if (spoil_ > 0 && spoil_-- > 0) bytes[bytes.size() / 2] ^= 1;
          for (size_t at = offset; at < bytes.size(); at += 1000) {
            if (stop.stop_requested()) return absl::CancelledError("stopped");
            if (cut_after_ >= 0 && cut_after_-- == 0)
              return absl::UnavailableError("the network is gone");
            RETURN_IF_ERROR(take(std::span<const uint8_t>(bytes).subspan(
                at, std::min<size_t>(1000, bytes.size() - at))));
            served_bytes_ += std::min<size_t>(1000, bytes.size() - at);
          }
          return absl::OkStatus();
        };
  }

  absl::StatusOr<Weights> Prepare(const WeightStoreOptions& options, std::stop_token stop = {}) {
    return WeightStore(options).Prepare(*model_.manifest(), {parts_}, Fetch(), stop,
                                        [this](uint64_t done, uint64_t total) {
                                          EXPECT_LE(done, total);
                                          last_done_ = done;
                                        });
  }

  void ExpectRight(const Weights& weights) {
    for (const std::string& name : parts_) {
      const model::Part* part = model_.manifest()->Find(name);
      const std::vector<uint8_t> want = model_.PartBytes(part->sha256);
      size_t at = 0;
      for (const model::TensorInfo& tensor : part->tensors) {
        std::vector<uint8_t> got(tensor.bytes);
        ASSERT_TRUE(weights.source->Read(tensor.name, 0, got).ok());
        EXPECT_TRUE(
            std::equal(got.begin(), got.end(), want.begin() + static_cast<std::ptrdiff_t>(at)))
            << tensor.name;
        at += tensor.bytes;
      }
    }
  }
  std::string PathOf(const std::string& name) {
    return absl::StrCat(dir_.path(), "/weights/", model_.manifest()->Find(name)->sha256);
  }

  testing::TinyModel model_;
  testing::TempDir dir_;
  std::vector<std::string> parts_;
  uint64_t total_bytes_ = 0;
  uint64_t served_bytes_ = 0;
  uint64_t first_offset_ = 0;
  uint64_t last_done_ = 0;
  int fetches_ = 0;
  int spoil_ = 0;
  int cut_after_ = -1;
};

TEST_F(WeightStoreTest, FetchesOnceAndNotAgain) {
  auto first = Prepare({dir_.path(), {}, ""});
  ASSERT_TRUE(first.ok()) << first.status();
  EXPECT_EQ(first->fetched_bytes, total_bytes_);
  EXPECT_EQ(last_done_, total_bytes_);
  ExpectRight(*first);
  struct stat info {};
  ASSERT_EQ(stat(PathOf("embed").c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 0777, 0600u);
  ASSERT_EQ(stat((dir_.path() + "/weights").c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 0777, 0700u);

  fetches_ = 0;
  auto second = Prepare({dir_.path(), {}, ""});
  ASSERT_TRUE(second.ok()) << second.status();
  EXPECT_EQ(second->fetched_bytes, 0u);
  EXPECT_EQ(fetches_, 0);
  EXPECT_EQ(second->origin, "cache");
  ExpectRight(*second);
}

TEST_F(WeightStoreTest, DamagedCacheFileIsFetchedAgain) {
  ASSERT_TRUE(Prepare({dir_.path(), {}, ""}).ok());
  {
    std::FILE* file = std::fopen(PathOf("layer.0").c_str(), "r+b");
    ASSERT_NE(file, nullptr);
    std::fseek(file, 100, SEEK_SET);
    std::fputc(0x17, file);
    std::fputc(0x71, file);
    std::fclose(file);
  }
  ASSERT_EQ(truncate(PathOf("embed").c_str(), 5), 0);
  const auto again = Prepare({dir_.path(), {}, ""});
  ASSERT_TRUE(again.ok()) << again.status();
  EXPECT_EQ(again->fetched_bytes,
            model_.manifest()->Find("layer.0")->bytes + model_.manifest()->Find("embed")->bytes);
  ExpectRight(*again);
}

TEST_F(WeightStoreTest, ResumesWhatTheNetworkCutOff) {
  parts_ = {"embed"};
  total_bytes_ = model_.manifest()->Find("embed")->bytes;
  std::stop_source stop;
  cut_after_ = 3;
  const auto once =
      WeightStore({dir_.path(), {}, ""})
          .Prepare(
              *model_.manifest(), {parts_},
              [&](const std::string& sha256, uint64_t offset, std::stop_token token,
                  const auto& take) {
                absl::Status status = Fetch()(sha256, offset, token, take);
                return absl::IsUnavailable(status) ? absl::InternalError("crash") : status;
              },
              {}, nullptr);
  ASSERT_FALSE(once.ok());
  served_bytes_ = 0;
  const auto again = Prepare({dir_.path(), {}, ""});
  ASSERT_TRUE(again.ok()) << again.status();
  EXPECT_EQ(first_offset_, 3000u);
  EXPECT_EQ(again->fetched_bytes, total_bytes_ - 3000);
  ExpectRight(*again);
}

TEST_F(WeightStoreTest, UnavailableIsTriedAgainWithoutStartingOver) {
  cut_after_ = 2;
  const auto weights = Prepare({dir_.path(), {}, ""});
  ASSERT_TRUE(weights.ok()) << weights.status();
  EXPECT_EQ(served_bytes_, total_bytes_);
  ExpectRight(*weights);
}

// More fetches than the coordinator serves: "again" is no full disk, and nothing starts over.
TEST_F(WeightStoreTest, AgainIsAskedAgainWithoutStartingOver) {
  int refusals = 4;
  const FetchPart fetch = Fetch();
  uint64_t refused_at = 0;
  const auto busy = [&](const std::string& sha256, uint64_t offset, std::stop_token stop,
                        const auto& take) -> absl::Status {
    if (offset > 0 && refusals-- > 0) {
      refused_at = offset;
      return refusals % 2 == 0 ? absl::ResourceExhaustedError("64 fetches already; try again")
                               : absl::UnavailableError("1024 fetches already; try again");
    }
    return fetch(sha256, offset, stop, take);
  };
  cut_after_ = 2;
  const auto weights =
      WeightStore({dir_.path(), {}, ""}).Prepare(*model_.manifest(), {parts_}, busy, {}, nullptr);
  ASSERT_TRUE(weights.ok()) << weights.status();
  EXPECT_EQ(refused_at, 2000u);
  EXPECT_EQ(served_bytes_, total_bytes_);
  ExpectRight(*weights);
}

TEST_F(WeightStoreTest, WhatGivesNothingForLongPassesByItselfAndKeepsThePart) {
  WeightStoreOptions options{dir_.path(), {}, ""};
  options.fetch_patience_ms = 300;
  parts_ = {"embed"};
  const FetchPart fetch = Fetch();
  const auto busy = [&](const std::string& sha256, uint64_t offset, std::stop_token stop,
                        const auto& take) -> absl::Status {
    if (offset > 0) return absl::ResourceExhaustedError("try again");
    return fetch(sha256, offset, stop, take);
  };
  cut_after_ = 3;
  const auto weights =
      WeightStore(options).Prepare(*model_.manifest(), {parts_}, busy, {}, nullptr);
  EXPECT_TRUE(absl::IsUnavailable(weights.status())) << weights.status();
  EXPECT_EQ(net::CauseOf(weights.status()), net::LoadCause::kAgain);
  EXPECT_EQ(std::filesystem::file_size(PathOf("embed") + ".part"), 3000u);
}

TEST_F(WeightStoreTest, AStopEndsTheWaiting) {
  std::stop_source stop;
  const auto start = std::chrono::steady_clock::now();
  const auto busy = [&](const std::string&, uint64_t, std::stop_token, const auto&) {
    stop.request_stop();
    return absl::UnavailableError("try again");
  };
  const auto weights = WeightStore({dir_.path(), {}, ""})
                           .Prepare(*model_.manifest(), {parts_}, busy, stop.get_token(), nullptr);
  EXPECT_TRUE(absl::IsCancelled(weights.status())) << weights.status();
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(2));
}

TEST_F(WeightStoreTest, AFolderThatCannotBeWrittenIsNamed) {
  // A file is in the place of the folder, as root may write into any folder.
  std::ofstream(dir_.path() + "/weights") << "x";
  const auto weights = Prepare({dir_.path(), {}, ""});
  EXPECT_EQ(net::CauseOf(weights.status()), net::LoadCause::kCacheUnwritable) << weights.status();
  EXPECT_NE(weights.status().message().find(dir_.path()), absl::string_view::npos);

  testing::TempDir other;  // a folder in the place of the part
  std::filesystem::create_directories(
      absl::StrCat(other.path(), "/weights/", model_.manifest()->Find("embed")->sha256, ".part"));
  const auto again = Prepare({other.path(), {}, ""});
  EXPECT_EQ(net::CauseOf(again.status()), net::LoadCause::kCacheUnwritable) << again.status();
}

// Damaged once is an accident; damaged again after it was fetched anew, the disk fails.
TEST_F(WeightStoreTest, ACacheThatDamagesItsPartsIsSaidToFail) {
  WeightStore store({dir_.path(), {}, ""});
  const auto prepare = [&] {
    return store.Prepare(*model_.manifest(), {parts_}, Fetch(), {}, nullptr);
  };
  ASSERT_TRUE(prepare().ok());
  ASSERT_EQ(truncate(PathOf("embed").c_str(), 5), 0);
  ASSERT_TRUE(prepare().ok()) << "it was fetched again";
  ASSERT_EQ(truncate(PathOf("embed").c_str(), 5), 0);
  const auto weights = prepare();
  EXPECT_EQ(net::CauseOf(weights.status()), net::LoadCause::kBadWeights) << weights.status();
  EXPECT_NE(weights.status().message().find("disk"), absl::string_view::npos);
}

TEST_F(WeightStoreTest, WrongBytesAreNeverUsed) {
  spoil_ = 1;  // the second try is right
  ASSERT_TRUE(Prepare({dir_.path(), {}, ""}).ok());
  testing::TempDir other;
  spoil_ = 1000;
  const auto weights = Prepare({other.path(), {}, ""});
  EXPECT_TRUE(absl::IsDataLoss(weights.status())) << weights.status();
  EXPECT_EQ(net::CauseOf(weights.status()), net::LoadCause::kBadWeights);
  EXPECT_TRUE(std::filesystem::is_empty(other.path() + "/weights"));
}

TEST_F(WeightStoreTest, StopCancels) {
  std::stop_source stop;
  stop.request_stop();
  EXPECT_TRUE(absl::IsCancelled(Prepare({dir_.path(), {}, ""}, stop.get_token()).status()));
}

TEST_F(WeightStoreTest, LocalFileIsVerifiedAndUsed) {
  const auto weights = Prepare({dir_.path(), {model_.path()}, ""});
  ASSERT_TRUE(weights.ok()) << weights.status();
  EXPECT_EQ(fetches_, 0);
  EXPECT_EQ(weights->origin, model_.path());
  ExpectRight(*weights);
  EXPECT_EQ(Prepare({dir_.path(), {}, model_.dir()})->origin, model_.path());
}

TEST_F(WeightStoreTest, LocalFileOfOtherContentIsNotUsed) {
  // One byte of the data differs: names and shapes alone would pass.
  const std::string path = dir_.path() + "/other.gguf";
  std::filesystem::copy_file(model_.path(), path);
  {
    std::fstream file(path, std::ios::in | std::ios::out | std::ios::binary);
    file.seekg(-1, std::ios::end);
    const char last = static_cast<char>(file.get());
    file.seekp(-1, std::ios::end);
    file.put(static_cast<char>(last ^ 1));
  }
  parts_ = {};
  for (const model::Part& part : model_.manifest()->parts) parts_.push_back(part.name);
  const auto weights = Prepare({dir_.path(), {path, "/does/not/exist.gguf"}, ""});
  ASSERT_TRUE(weights.ok()) << weights.status();
  EXPECT_EQ(weights->origin, "coordinator");
  ExpectRight(*weights);
}

// Reading tens of gigabytes to find the same difference again would delay every plan.
TEST_F(WeightStoreTest, ALocalFileOfOtherContentIsAvoidedUntilItChanges) {
  const std::string path = dir_.path() + "/other.gguf";
  std::filesystem::copy_file(model_.path(), path);
  const auto spoil = [&] {
    std::fstream file(path, std::ios::in | std::ios::out | std::ios::binary);
    file.seekg(-1, std::ios::end);
    const char last = static_cast<char>(file.get());
    file.seekp(-1, std::ios::end);
    file.put(static_cast<char>(last ^ 1));
  };
  spoil();
  parts_ = {};
  for (const model::Part& part : model_.manifest()->parts) parts_.push_back(part.name);
  WeightStore store({dir_.path(), {path}, ""});
  const auto prepare = [&] {
    return store.Prepare(*model_.manifest(), {parts_}, Fetch(), {}, nullptr)->origin;
  };
  EXPECT_EQ(prepare(), "coordinator");
  const auto changed = std::filesystem::last_write_time(path);
  spoil();  // it is right now, and looks as it did
  std::filesystem::last_write_time(path, changed);
  EXPECT_EQ(prepare(), "cache") << "it was not looked into";
  std::filesystem::last_write_time(path, changed + std::chrono::seconds(1));
  EXPECT_EQ(prepare(), path);
}

// Parts of models that are served no more.
std::vector<std::string> OldParts(const std::string& state, int n, size_t bytes) {
  std::vector<std::string> out;
  std::filesystem::create_directories(state + "/weights");
  for (int i = 0; i < n; ++i) {
    out.push_back(absl::StrCat(state, "/weights/", std::string(63, 'a'), i, i == 1 ? ".part" : ""));
    std::ofstream(out.back()) << std::string(bytes, 'x');
    const auto used =
        std::filesystem::file_time_type::clock::now() - std::chrono::hours(10 * (n - i));
    std::filesystem::last_write_time(out.back(), used);
  }
  return out;
}

// Otherwise parts go whatever the limit says.
bool DiskHasRoom(const std::string& path) {
  const auto disk = std::filesystem::space(path);
  return disk.available > disk.capacity / 10;
}

TEST_F(WeightStoreTest, TheLongestUnusedPartsMakeRoomForWhatIsNeeded) {
  if (!DiskHasRoom(dir_.path())) GTEST_SKIP() << "the disk of the temporary folder is nearly full";
  const std::vector<std::string> old = OldParts(dir_.path(), 4, 1000);
  const std::string foreign = dir_.path() + "/weights/notes.txt";
  std::ofstream(foreign) << std::string(5000, 'n');
  // The limit of what is needed and two of the old ones.
  WeightStoreOptions options{dir_.path(), {}, "", total_bytes_ + 2500};
  auto weights = Prepare(options);
  ASSERT_TRUE(weights.ok()) << weights.status();
  EXPECT_FALSE(std::filesystem::exists(old[0]));
  EXPECT_FALSE(std::filesystem::exists(old[1]));
  EXPECT_TRUE(std::filesystem::exists(old[2]));
  EXPECT_TRUE(std::filesystem::exists(old[3]));
  EXPECT_TRUE(std::filesystem::exists(foreign));
  ExpectRight(*weights);

  // Below what is needed: everything else goes, the layers come nevertheless, and stay cached.
  options.cache_limit_bytes = 1;
  fetches_ = 0;
  weights = Prepare(options);
  ASSERT_TRUE(weights.ok()) << weights.status();
  EXPECT_EQ(fetches_, 0);
  EXPECT_FALSE(std::filesystem::exists(old[3]));
  ExpectRight(*weights);
}

TEST_F(WeightStoreTest, WithoutALimitNothingGoesWhileTheDiskHasRoom) {
  if (!DiskHasRoom(dir_.path())) GTEST_SKIP() << "the disk of the temporary folder is nearly full";
  const std::vector<std::string> old = OldParts(dir_.path(), 3, 1000);
  ASSERT_TRUE(Prepare({dir_.path(), {}, ""}).ok());
  for (const std::string& path : old) EXPECT_TRUE(std::filesystem::exists(path)) << path;
}

TEST_F(WeightStoreTest, UseKeepsAPartYoung) {
  ASSERT_TRUE(Prepare({dir_.path(), {}, ""}).ok());
  const auto long_ago = std::filesystem::file_time_type::clock::now() - std::chrono::hours(1000);
  for (const std::string& name : parts_) std::filesystem::last_write_time(PathOf(name), long_ago);
  ASSERT_TRUE(Prepare({dir_.path(), {}, ""}).ok());
  for (const std::string& name : parts_) {
    EXPECT_GT(std::filesystem::last_write_time(PathOf(name)), long_ago + std::chrono::hours(900))
        << name;
  }
}

TEST_F(WeightStoreTest, AFullDiskGivesUpItsOldParts) {
  const std::string mount_point = dir_.path() + "/small";
  std::filesystem::create_directory(mount_point);
  const std::string size =
      absl::StrCat("size=", (total_bytes_ / 4096 + parts_.size() + 8) * 4096 * 10 / 9);
  if (mount("tmpfs", mount_point.c_str(), "tmpfs", 0, size.c_str()) != 0) {
    GTEST_SKIP() << "mounting a small tmpfs needs root";
  }
  const std::vector<std::string> old = OldParts(mount_point, 4, total_bytes_ / 4);
  const auto weights = Prepare({mount_point, {}, ""});
  const bool oldest = std::filesystem::exists(old[0]);
  umount(mount_point.c_str());
  EXPECT_TRUE(weights.ok()) << weights.status();
  EXPECT_FALSE(oldest);
}

TEST_F(WeightStoreTest, FullDiskIsNamedAndLeavesNothing) {
  const std::string mount_point = dir_.path() + "/small";
  std::filesystem::create_directory(mount_point);
  if (mount("tmpfs", mount_point.c_str(), "tmpfs", 0, "size=32k") != 0) {
    GTEST_SKIP() << "mounting a small tmpfs needs root";
  }
  const auto weights = Prepare({mount_point, {}, ""});
  bool left = false;
  for (const auto& entry : std::filesystem::directory_iterator(mount_point + "/weights")) {
    left = left || entry.path().extension() == ".part";
  }
  umount(mount_point.c_str());
  EXPECT_TRUE(absl::IsResourceExhausted(weights.status())) << weights.status();
  EXPECT_EQ(net::CauseOf(weights.status()), net::LoadCause::kDiskFull);
  EXPECT_NE(weights.status().message().find(mount_point), absl::string_view::npos);
  EXPECT_NE(weights.status().message().find("No space left"), absl::string_view::npos);
  EXPECT_NE(weights.status().message().find(" bytes ("), absl::string_view::npos);
  EXPECT_FALSE(left);
}

TEST(ProcessTest, StateFolderHasOneOwner) {
  testing::TempDir dir;
  const std::string path = dir.path() + "/a/b";
  ASSERT_TRUE(MakePrivateDir(path).ok());
  {
    auto lock = StateLock::Take(path);
    ASSERT_TRUE(lock.ok());
    const auto second = StateLock::Take(path);
    EXPECT_TRUE(absl::IsAlreadyExists(second.status()));
    EXPECT_NE(second.status().message().find(std::to_string(getpid())), absl::string_view::npos);
  }
  EXPECT_TRUE(StateLock::Take(path).ok());
  const uint64_t resident_bytes = ResidentBytes();
  EXPECT_GT(resident_bytes, 1u << 20);
  EXPECT_GE(PeakResidentBytes(), resident_bytes);
}

}  // namespace
}  // namespace lanyard::worker
