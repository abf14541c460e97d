// Joining, renewing and throwing out, with a clock of the test's own.
#include "coordinator/access/nodes.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <atomic>
#include <filesystem>
#include <thread>

#include "coordinator/access/cluster.h"
#include "identity/key_pair.h"

namespace lanyard::coordinator {
namespace {

using identity::JoinToken;
using identity::KeyPair;
using identity::Role;
using ::testing::HasSubstr;

class NodesTest : public ::testing::Test {
 protected:
  void SetUp() override {
    folder_ = ::testing::TempDir() + "/nodes_" + std::to_string(getpid());
    std::filesystem::remove_all(folder_);
    std::filesystem::create_directories(folder_);
    Reopen();
  }
  void TearDown() override {
    nodes_.reset();
    store_.reset();
    std::filesystem::remove_all(folder_);
  }
  void Reopen() {
    nodes_.reset();
    store_.reset();
    auto store = Store::Open(folder_ + "/state.db");
    ASSERT_TRUE(store.ok()) << store.status();
    store_ = *std::move(store);
    nodes_ = *Nodes::Open(store_.get(), &authority_, [this] { return now_.load(); });
  }
  net::JoinRequest Request(const KeyPair& key, const std::string& token_text,
                           const std::string& name) {
    const JoinToken token = *JoinToken::Decode(token_text);
    return {token.id, token.secret, Role::kWorker, name, *key.MakeRequest(), "10.0.0.7:1"};
  }
  std::string Token(const TokenRequest& request = {}) {
    return nodes_->CreateToken(request)->token;
  }
  absl::Status Join(const KeyPair& key, const std::string& token,
                    const std::string& name = "pc-1") {
    return nodes_->Enrol(Request(key, token, name)).status();
  }
  absl::Status Renew(const KeyPair& key) {
    return nodes_->Enrol({"", "", Role::kWorker, "", *key.MakeRequest(), ""}).status();
  }
  identity::Peer PeerOf(const KeyPair& key) {
    identity::Peer peer;
    peer.role = Role::kWorker;
    peer.node = key.node_id();
    peer.name = "pc-1";
    return peer;
  }

  std::atomic<identity::UnixTime> now_{1'790'000'000};
  const identity::Authority authority_ = *identity::Authority::Create(now_);
  const KeyPair key_ = *KeyPair::Generate();
  std::string folder_;
  std::unique_ptr<Store> store_;
  std::unique_ptr<Nodes> nodes_;
};

TEST_F(NodesTest, TokenLetsAMachineInOnce) {
  const std::string token = Token();
  const auto reply = nodes_->Enrol(Request(key_, token, "pc-1"));
  ASSERT_TRUE(reply.ok()) << reply.status();
  const auto peer = identity::PeerOfPem(reply->certificate_pem);
  EXPECT_EQ(peer->node, key_.node_id());
  EXPECT_EQ(peer->name, "pc-1");
  EXPECT_TRUE(nodes_->Check(*peer).ok());
  const KeyPair other = *KeyPair::Generate();
  EXPECT_THAT(Join(other, token, "pc-2").ToString(), HasSubstr("used already (1 of 1 uses)"));
  EXPECT_FALSE(nodes_->Check(PeerOf(other)).ok());
}

TEST_F(NodesTest, EachBadTokenHasItsWords) {
  std::string token = Token({.ttl_seconds = 60});
  now_ += 61;
  EXPECT_THAT(Join(key_, token).ToString(), HasSubstr("expired 1 s ago"));
  EXPECT_THAT(Join(key_, Token({.role = Role::kAdmin})).ToString(),
              HasSubstr("is for the role admin, not worker; make one with `lanyard token create "
                        "--role worker`"));
  JoinToken wrong = *JoinToken::Decode(Token());
  wrong.secret[0] = static_cast<char>(wrong.secret[0] ^ 1);
  EXPECT_THAT(Join(key_, wrong.Encode()).ToString(), HasSubstr("not known here"));
  EXPECT_THAT(Join(key_, JoinToken::Make(authority_.fingerprint())->Encode()).ToString(),
              HasSubstr("not known here"));
  token = Token();
  ASSERT_TRUE(nodes_->RevokeToken(JoinToken::Decode(token)->id).ok());
  EXPECT_THAT(Join(key_, token).ToString(), HasSubstr("not known here"));
  EXPECT_TRUE(nodes_->List()->empty());
}

TEST_F(NodesTest, OfAThousandParallelRedemptionsOneSucceeds) {
  const std::string token = Token();
  std::vector<net::JoinRequest> requests;
  for (int i = 0; i < 1000; ++i) {
    requests.push_back(Request(*KeyPair::Generate(), token, "pc-" + std::to_string(i)));
  }
  std::atomic<int> good{0}, used{0};
  std::vector<std::thread> threads;
  for (int t = 0; t < 8; ++t) {
    threads.emplace_back([&, t] {
      for (int i = t; i < 1000; i += 8) {
        const absl::Status status = nodes_->Enrol(requests[i]).status();
        good += status.ok();
        used += status.ToString().find("used already") != std::string::npos;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(good, 1);
  EXPECT_EQ(used, 999);
  EXPECT_EQ(nodes_->List()->size(), 1U);
}

TEST_F(NodesTest, NameOfAnotherNodeIsRefusedAndTheTokenStaysGood) {
  ASSERT_TRUE(Join(key_, Token()).ok());
  const KeyPair other = *KeyPair::Generate();
  const std::string token = Token();
  EXPECT_THAT(Join(other, token, "pc-1").ToString(),
              HasSubstr("belongs to node " + key_.node_id()));
  EXPECT_TRUE(Join(other, token, "pc-2").ok());
}

TEST_F(NodesTest, MembersRenewWithoutATokenAndStrangersDoNot) {
  ASSERT_TRUE(Join(key_, Token()).ok());
  now_ += 23 * 3600;
  ASSERT_TRUE(Renew(key_).ok());
  now_ += 23 * 3600;
  EXPECT_TRUE(nodes_->Check(PeerOf(key_)).ok());
  now_ += 2 * 3600;
  EXPECT_TRUE(absl::IsUnauthenticated(nodes_->Check(PeerOf(key_))));  // ran out
  EXPECT_TRUE(Renew(key_).ok());                                      // the key is still a member's
  EXPECT_TRUE(nodes_->Check(PeerOf(key_)).ok());
  EXPECT_THAT(Renew(*KeyPair::Generate()).ToString(), HasSubstr("not a member"));
}

TEST_F(NodesTest, RevokedStaysRevokedAlsoAfterARestart) {
  ASSERT_TRUE(Join(key_, Token()).ok());
  ASSERT_TRUE(nodes_->Revoke("pc-1").ok());
  for (int life = 0; life < 2; ++life) {
    EXPECT_TRUE(absl::IsPermissionDenied(nodes_->Check(PeerOf(key_))));
    EXPECT_THAT(Renew(key_).ToString(), HasSubstr("was revoked"));
    EXPECT_THAT(Join(key_, Token()).ToString(), HasSubstr("was revoked"));
    EXPECT_EQ(nodes_->RevokedIds(), std::vector<std::string>{key_.node_id()});
    EXPECT_TRUE(absl::IsNotFound(nodes_->Revoke("pc-1").status()));
    EXPECT_TRUE(absl::IsFailedPrecondition(nodes_->Revoke(key_.node_id()).status()));
    Reopen();
  }
  EXPECT_TRUE(Join(*KeyPair::Generate(), Token(), "pc-1").ok());  // the name is free again
  now_ += 25 * 3600;
  EXPECT_TRUE(nodes_->RevokedIds().empty());  // none of its certificates is valid
  EXPECT_THAT(Renew(key_).ToString(), HasSubstr("was revoked"));
}

TEST_F(NodesTest, LostReplyDoesNotStrandTheMachine) {
  const std::string token = Token({.uses = 2});
  ASSERT_TRUE(Join(key_, token).ok());
  ASSERT_TRUE(Join(key_, token).ok());  // the first reply never arrived: its key is a member's
  EXPECT_EQ(nodes_->ListTokens()->front().used, 1U);
}

TEST_F(NodesTest, WithoutATokenNobodyLearnsNames) {
  ASSERT_TRUE(Join(key_, Token()).ok());
  const std::string guess = JoinToken::Make(authority_.fingerprint())->Encode();
  EXPECT_THAT(Join(*KeyPair::Generate(), guess, "pc-1").ToString(), HasSubstr("not known here"));
}

TEST_F(NodesTest, NameOfTwoRolesMustBeSaidByItsId) {
  ASSERT_TRUE(Join(key_, Token()).ok());
  const KeyPair admin = *KeyPair::Generate();
  ASSERT_TRUE(
      nodes_->EnrolLocal({"", "", Role::kAdmin, "pc-1", *admin.MakeRequest(), "here"}).ok());
  EXPECT_THAT(nodes_->Revoke("pc-1").status().ToString(), HasSubstr("name one by its id"));
  EXPECT_TRUE(nodes_->Check(PeerOf(key_)).ok());
  EXPECT_TRUE(nodes_->Revoke(key_.node_id()).ok());
  EXPECT_TRUE(nodes_->Revoke("pc-1").ok());  // the other is alone with it now
  EXPECT_TRUE(absl::IsInvalidArgument(Join(*KeyPair::Generate(), Token(), key_.node_id())));
}

TEST_F(NodesTest, LocalAdministratorWhoseFolderIsGoneIsReplaced) {
  const KeyPair first = *KeyPair::Generate();
  const KeyPair second = *KeyPair::Generate();
  ASSERT_TRUE(
      nodes_->EnrolLocal({"", "", Role::kAdmin, "pc-0-admin", *first.MakeRequest(), "here"}).ok());
  ASSERT_TRUE(
      nodes_->EnrolLocal({"", "", Role::kAdmin, "pc-0-admin", *second.MakeRequest(), "here"}).ok());
  EXPECT_EQ(nodes_->RevokedIds(), std::vector<std::string>{first.node_id()});
}

TEST_F(NodesTest, TokensAreListedWhileTheyCanBeUsed) {
  const std::string one = Token({.uses = 2});
  Token({.ttl_seconds = 10});
  EXPECT_EQ(nodes_->ListTokens()->size(), 2U);
  now_ += 11;
  ASSERT_EQ(nodes_->ListTokens()->size(), 1U);
  ASSERT_TRUE(Join(key_, one).ok());
  EXPECT_EQ(nodes_->ListTokens()->front().used, 1U);
  ASSERT_TRUE(Join(*KeyPair::Generate(), one, "pc-2").ok());
  EXPECT_TRUE(nodes_->ListTokens()->empty());
  for (const TokenRequest& bad :
       {TokenRequest{.ttl_seconds = 0}, TokenRequest{.ttl_seconds = 8 * 24 * 3600},
        TokenRequest{.uses = 0}, TokenRequest{.role = Role::kCoordinator}}) {
    EXPECT_TRUE(absl::IsInvalidArgument(nodes_->CreateToken(bad).status()));
  }
}

TEST_F(NodesTest, SecretsAreNotInTheStore) {
  const JoinToken token = *JoinToken::Decode(Token());
  const std::string wal = folder_ + "/state.db-wal";
  for (const std::string& file : {folder_ + "/state.db", wal}) {
    std::string bytes;
    if (FILE* in = std::fopen(file.c_str(), "rb")) {
      char buffer[4096];
      for (size_t n; (n = std::fread(buffer, 1, sizeof(buffer), in)) > 0;) bytes.append(buffer, n);
      std::fclose(in);
    }
    EXPECT_EQ(bytes.find(token.secret), std::string::npos);
  }
}

TEST_F(NodesTest, ClusterKeepsItsCaAndRenewsItsOwnCertificates) {
  const ClusterOptions options{folder_, "pc-0", {"lanyard.office"}, [this] { return now_.load(); }};
  std::string cluster_id, node;
  {
    auto cluster = Cluster::Open(store_.get(), options);
    ASSERT_TRUE(cluster.ok()) << cluster.status();
    cluster_id = (*cluster)->authority().cluster();
    const auto first = (*cluster)->credential()->Get();
    node = first->self.node;
    ASSERT_TRUE((*cluster)->MakeAdmin("https://localhost:8470", "https://pc-0:8470").ok());
    const auto admin = *(*identity::IdentityFolder::Open((*cluster)->admin_folder())).Load();
    EXPECT_EQ(admin->https, "https://localhost:8470");
    const auto peer = *identity::PeerOfPem(admin->certificate_pem);
    EXPECT_EQ(peer.role, Role::kAdmin);
    EXPECT_TRUE((*cluster)->nodes()->Check(peer).ok());
    ASSERT_TRUE((*cluster)->RenewIfDue().ok());
    EXPECT_EQ((*cluster)->credential()->Get(), first);  // not due
    now_ += 17 * 3600;
    ASSERT_TRUE((*cluster)->RenewIfDue().ok());
    EXPECT_NE((*cluster)->credential()->Get(), first);
    EXPECT_NE((*identity::IdentityFolder::Open((*cluster)->admin_folder()))
                  .Load()
                  ->value()
                  .certificate_pem,
              admin->certificate_pem);
  }
  {
    // Its own administrator was revoked: it starts all the same, with a new key.
    auto cluster = Cluster::Open(store_.get(), options);
    ASSERT_TRUE(cluster.ok());
    ASSERT_TRUE((*cluster)->Revoke("pc-0-admin").ok());
    ASSERT_TRUE((*cluster)->MakeAdmin("https://localhost:8470", "").ok());
    const auto admin = *(*identity::IdentityFolder::Open((*cluster)->admin_folder())).Load();
    EXPECT_TRUE((*cluster)->AdminOf(admin->certificate_pem).ok());
  }
  {
    // Certificates as short as an administrator may have them, of everybody.
    ClusterOptions brief = options;
    brief.certificate_seconds = 60;
    auto cluster = Cluster::Open(store_.get(), brief);
    ASSERT_TRUE(cluster.ok());
    ASSERT_TRUE((*cluster)->MakeAdmin("https://localhost:8470", "").ok());
    const auto first = (*cluster)->credential()->Get();
    EXPECT_EQ(identity::LifeSeconds(first->self), 60);
    const auto admin = *(*identity::IdentityFolder::Open((*cluster)->admin_folder())).Load();
    EXPECT_EQ(identity::PeerOfPem(admin->certificate_pem)->not_after, now_ + 60);
    now_ += 39;
    ASSERT_TRUE((*cluster)->RenewIfDue().ok());
    EXPECT_EQ((*cluster)->credential()->Get(), first);
    now_ += 2;
    ASSERT_TRUE((*cluster)->RenewIfDue().ok());
    const auto second = (*cluster)->credential()->Get();
    EXPECT_NE(second, first);
    ASSERT_TRUE((*cluster)->RenewIfDue(true).ok());
    EXPECT_NE((*cluster)->credential()->Get(), second);
  }
  auto again = Cluster::Open(store_.get(), options);
  ASSERT_TRUE(again.ok()) << again.status();
  EXPECT_EQ((*again)->authority().cluster(), cluster_id);
  EXPECT_EQ((*again)->credential()->Get()->self.node, node);
  again->reset();
  std::filesystem::remove(folder_ + "/ca/ca.crt");
  EXPECT_TRUE(absl::IsDataLoss(Cluster::Open(store_.get(), options).status()));
}

// It cannot do anything without one, and its token would be spent.
TEST_F(NodesTest, AnAdministratorIsToldAnAddressThatItCanReach) {
  auto cluster = Cluster::Open(store_.get(), {folder_, "pc-0", {}, [this] { return now_.load(); }});
  ASSERT_TRUE(cluster.ok()) << cluster.status();
  int n = 0;
  const auto join = [&](const std::string& from) {
    const std::string token = (*cluster)->CreateToken("admin", 60, 1)->token;
    net::JoinRequest request = Request(*KeyPair::Generate(), token, absl::StrCat("pc-", ++n));
    request.role = Role::kAdmin;
    request.from = from;
    auto reply = (*cluster)->Enrol(request);
    if (absl::IsFailedPrecondition(reply.status())) {
      request.from = "127.0.0.1:5";  // the token is as good as before
      EXPECT_TRUE((*cluster)->Enrol(request).ok());
    }
    return reply.ok() ? reply->https : Str(reply.status().message());
  };
  ASSERT_TRUE((*cluster)->MakeAdmin("https://localhost:8470", "").ok());
  EXPECT_EQ(join("127.0.0.1:5"), "https://localhost:8470");
  EXPECT_EQ(join("[::1]:5"), "https://localhost:8470");
  EXPECT_THAT(join("10.0.0.7:5"), HasSubstr("its own machine alone (https://localhost:8470)"));
  ASSERT_TRUE((*cluster)->MakeAdmin("https://localhost:8470", "https://pc-0:8470").ok());
  EXPECT_EQ(join("10.0.0.7:6"), "https://pc-0:8470");
  EXPECT_EQ(join("127.0.0.1:6"), "https://pc-0:8470");
}

TEST_F(NodesTest, DrainsAreKept) {
  const KeyPair key = *KeyPair::Generate();
  ASSERT_TRUE(Join(key, Token()).ok());
  EXPECT_FALSE(nodes_->SetDrained("pc-1", false)->drained_unix_s.has_value());
  EXPECT_EQ(nodes_->SetDrained("pc-1", true)->drained_unix_s, now_.load());
  EXPECT_TRUE(absl::IsNotFound(nodes_->SetDrained("pc-9", true).status()));
  Reopen();
  EXPECT_EQ(nodes_->DrainedWorkers(), std::vector<std::string>{"pc-1"});
  ASSERT_TRUE(Renew(key).ok());  // a new certificate changes nothing of it
  Reopen();
  EXPECT_EQ(nodes_->DrainedWorkers(), std::vector<std::string>{"pc-1"});
  ASSERT_TRUE(nodes_->SetDrained(key.node_id(), false).ok());
  EXPECT_TRUE(nodes_->DrainedWorkers().empty());
  ASSERT_TRUE(nodes_->SetDrained("pc-1", true).ok());
  ASSERT_TRUE(nodes_->Revoke("pc-1").ok());
  EXPECT_TRUE(nodes_->DrainedWorkers().empty());
  EXPECT_TRUE(absl::IsFailedPrecondition(nodes_->SetDrained(key.node_id(), true).status()));
}

TEST_F(NodesTest, ARefusedDrainIsNotKept) {
  ClusterOptions options{folder_, "this-machine", {}, [this] { return now_.load(); }};
  auto cluster = Cluster::Open(store_.get(), options);
  ASSERT_TRUE(cluster.ok());
  std::vector<std::string> asked;
  ClusterHooks hooks;
  hooks.set_drained = [&](const std::string& worker, bool drained) {
    asked.push_back(absl::StrCat(worker, drained ? " drained" : " back"));
    return worker == "pc-1" ? FailedPrecondition("needed") : absl::OkStatus();
  };
  hooks.quarantine = [](const std::string&) { return std::string("9 s more"); };
  (*cluster)->Serve(std::move(hooks), "here:1");
  for (const char* name : {"pc-1", "pc-2"}) {
    const KeyPair key = *KeyPair::Generate();
    ASSERT_TRUE((*cluster)
                    ->Enrol(Request(key, (*cluster)->CreateToken("worker", 60, 1)->token, name))
                    .ok());
  }
  EXPECT_TRUE(absl::IsFailedPrecondition((*cluster)->SetDrained("pc-1", true).status()));
  EXPECT_TRUE((*cluster)->SetDrained("pc-2", true).ok());
  EXPECT_EQ((*cluster)->nodes()->DrainedWorkers(), std::vector<std::string>{"pc-2"});
  EXPECT_EQ((*(*cluster)->Members())[0].quarantine, "9 s more");
  ASSERT_TRUE((*cluster)->Revoke("pc-2").ok());
  EXPECT_EQ(asked, (std::vector<std::string>{"pc-1 drained", "pc-2 drained", "pc-2 back"}));
}

}  // namespace
}  // namespace lanyard::coordinator
