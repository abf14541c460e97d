#!/usr/bin/env bash
# One file that installs a pool where there is no network: our packages and all that they need as an apt repository, Ansible
# with its playbooks, a model, the manual, checksums.
# bundle.sh --packages build/package --out FOLDER [--model FILE]     (./dev bundle packs first)
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(dirname "$here")
packages='' out='' model=''
while (( $# )); do
  case $1 in
    --packages) packages=$(realpath "$2") ;;
    --out) out=$(realpath -m "$2") ;;
    --model) model=$(realpath "$2") ;;
    *) echo "bundle.sh: unknown option $1" >&2; exit 2 ;;
  esac
  shift 2
done
[[ -n $packages && -n $out ]] || { echo "bundle.sh: --packages and --out are needed" >&2; exit 2; }
# What runs the playbooks, and what Ansible needs on the machines that it looks after.
readonly WITH=(ansible-core python3 python3-apt)

# As apt would install them where nothing is installed: all that they need, in versions that go together.
download() {  # FOLDER DEB...
  local to=$1
  shift
  mkdir -p "$out/apt/partial"
  : >"$out/apt/status"
  apt-get -qq -y --download-only --no-install-recommends -o APT::Sandbox::User=root -o Dir::State::status="$out/apt/status" \
    -o Dir::Cache::archives="$out/apt/" -o Debug::NoLocking=1 install "${WITH[@]}" "$@"
  mv "$out"/apt/*.deb "$to/"
  rm -rf "$out/apt"
}

version=$(dpkg-deb -f "$(find "$packages" -name 'lanyard-cli_*.deb' | head -n 1)" Version)
name=lanyard-bundle-$version
to=$out/$name
rm -rf "$out"
mkdir -p "$to/repo" "$to/models"
cp "$packages"/*.deb "$to/repo/"
download "$to/repo" "$packages"/*.deb
(cd "$to/repo" && dpkg-scanpackages --multiversion . /dev/null 2>/dev/null >Packages)
count=$(find "$to/repo" -name '*.deb' | wc -l)
tar -C "$to/repo" --sort=name --owner=0 --group=0 --numeric-owner --mtime=@0 -cf "$to/repo.tar" .
rm -rf "$to/repo"
cp -r "$root/ansible" "$to/"
cp "$root/docs/install.md" "$to/"
[[ -z $model ]] || cp "$model" "$to/models/"
sums=$(cd "$to" && find . -type f -print0 | LC_ALL=C sort -z | xargs -0 sha256sum)
echo "$sums" >"$to/SHA256SUMS"
tar -C "$out" --sort=name --owner=0 --group=0 --numeric-owner -cf "$out/$name.tar" "$name"
(cd "$out" && sha256sum "$name.tar" >"$name.tar.sha256")
echo "$out/$name.tar: $(du -h "$out/$name.tar" | cut -f1), $count packages"
