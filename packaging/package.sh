#!/usr/bin/env bash
# Packs built programs: three .deb packages, checked by lintian, and a tarball that brings its libraries along.
# package.sh --bin FOLDER --out FOLDER [--version V]     (./dev package builds first)
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(dirname "$here")
bin='' out='' version=''
while (( $# )); do
  case $1 in
    --bin) bin=$(realpath "$2") ;;
    --out) out=$(realpath -m "$2") ;;
    --version) version=$2 ;;
    *) echo "package.sh: unknown option $1" >&2; exit 2 ;;
  esac
  shift 2
done
[[ -n $bin && -n $out ]] || { echo "package.sh: --bin and --out are needed" >&2; exit 2; }
: "${version:=$(sed -n 's/^#define LANYARD_VERSION "\(.*\)"/\1/p' "$root/base/version.cc")}"
export SOURCE_DATE_EPOCH
SOURCE_DATE_EPOCH=$(git -C "$root" log -1 --format=%ct 2>/dev/null || date +%s)
readonly PROGRAMS=(lanyard lanyard-coordinator lanyard-worker)

# What both kinds of package are made of.
stage() {  # FOLDER
  local to=$1 p
  rm -rf "$to"
  mkdir -p "$to"/{bin,sbin,etc,man,completions}
  for p in "${PROGRAMS[@]}"; do
    install -m 0755 "$bin/$p" "$to/bin/$p"
    python3 "$here/make_docs.py" --program "$bin/$p" --version "$version" --man "$to/man" --completions "$to/completions" \
      --section "$([[ $p == lanyard ]] && echo 1 || echo 8)"
  done
  install -m 0755 "$here/lanyard-join" "$to/sbin/"
  python3 "$here/make_docs.py" --program "$here/lanyard-join" --version "$version" --man "$to/man" --section 8 \
    --completions "$to/completions"
  install -m 0644 "$here"/etc/*.toml "$to/etc/"
  install -m 0644 "$root/README.md" "$to/"
}

debs() {
  local work=$out/parts/debian p
  stage "$work"
  cp -r "$here/debian" "$work/debian"
  for p in coordinator worker; do
    cp "$here/systemd/lanyard-$p.service" "$work/debian/lanyard-$p.service"
    cp "$here/sysusers/lanyard-$p.conf" "$work/debian/lanyard-$p.sysusers"
  done
  printf 'lanyard (%s) unstable; urgency=medium\n\n  * Built from the tree of %s.\n\n -- %s  %s\n' "$version" \
    "$(git -C "$root" rev-parse --short HEAD 2>/dev/null || echo 'a tarball')" \
    'Lanyard developers <lanyard@example.org>' "$(date -uR -d "@$SOURCE_DATE_EPOCH")" >"$work/debian/changelog"
  (cd "$work" && DH_QUIET=1 dpkg-buildpackage -b -us -uc -d >"$out/parts/dpkg-buildpackage.log" 2>&1) ||
    { tail -n 40 "$out/parts/dpkg-buildpackage.log" >&2; return 1; }
  mv "$out"/parts/lanyard-*_"$version"_*.deb "$out/"
  if command -v lintian >/dev/null; then
    lintian --fail-on error,warning --tag-display-limit 0 --allow-root "$out"/lanyard-*_"$version"_amd64.deb
    echo "lintian: no errors, no warnings"
  else
    echo "lintian is not installed: the packages are not checked"
  fi
}

# Everything that the programs load but glibc (with the loader) and the card's driver.
libraries() {  # FOLDER PROGRAM...
  local to=$1 name path
  shift
  ldd "$@" | awk '$2 == "=>" {print $1, $3}' | sort -u | while read -r name path; do
    case $name in
      libc.so.* | libm.so.* | libpthread.so.* | libdl.so.* | librt.so.* | libresolv.so.* | ld-linux* | libcuda.so.*) continue ;;
    esac
    install -m 0644 "$(realpath "$path")" "$to/$name"
  done
}

tarball() {
  local name=lanyard-$version-linux-x86_64 to p
  to=$out/parts/$name
  stage "$to"
  mkdir -p "$to/lib" "$to/systemd" "$to/sysusers"
  libraries "$to/lib" "${PROGRAMS[@]/#/$to/bin/}"
  for p in "${PROGRAMS[@]}"; do
    strip "$to/bin/$p"
    # DT_RPATH and not DT_RUNPATH: it counts for the libraries' own needs too.
    patchelf --force-rpath --set-rpath "\$ORIGIN/../lib" "$to/bin/$p"
  done
  install -m 0644 "$here"/systemd/*.service "$to/systemd/"
  install -m 0644 "$here"/sysusers/*.conf "$to/sysusers/"
  install -m 0755 "$here/install.sh" "$to/"
  install -m 0644 "$here/debian/copyright" "$to/COPYRIGHT"
  tar -C "$out/parts" --sort=name --owner=0 --group=0 --numeric-owner --mtime="@$SOURCE_DATE_EPOCH" -cf - "$name" |
    xz -T0 -3 >"$out/$name.tar.xz"
}

# The packages as a repository that apt takes, in one file (ansible/ brings it to machines).
repository() {
  mkdir -p "$out/parts/repo"
  cp "$out"/*.deb "$out/parts/repo/"
  (cd "$out/parts/repo" && dpkg-scanpackages --multiversion . /dev/null 2>/dev/null >Packages)
  tar -C "$out/parts/repo" --sort=name --owner=0 --group=0 --numeric-owner --mtime="@$SOURCE_DATE_EPOCH" -cf "$out/repo.tar" .
}

mkdir -p "$out/parts"
rm -f "$out"/*.deb "$out"/*.tar.xz "$out"/repo.tar "$out"/SHA256SUMS
debs
repository
tarball
rm -rf "${out:?}/parts"
(cd "$out" && sha256sum -- *.deb *.tar.xz >SHA256SUMS && ls -l -- *.deb *.tar.xz)
