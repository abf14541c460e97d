#!/bin/sh
# Installs this folder to PREFIX/lib/lanyard with links in PREFIX/bin, and the systemd units. install.sh [--prefix /usr/local]
# [--remove]. Without installing, the programs under bin/ run from here as they are.
set -eu
prefix=/usr/local remove=0
while [ $# -gt 0 ]; do
  case $1 in
    --prefix) [ $# -ge 2 ] || { echo "install.sh: --prefix needs a folder" >&2; exit 2; }; prefix=$2; shift ;;
    --remove) remove=1 ;;
    *) echo "install.sh: unknown option $1 (--prefix FOLDER, --remove)" >&2; exit 2 ;;
  esac
  shift
done
[ "$(id -u)" -eq 0 ] || { echo "install.sh: must be run as root" >&2; exit 1; }
here=$(cd "$(dirname "$0")" && pwd)
home=$prefix/lib/lanyard
units=/etc/systemd/system
reload() { if [ -d /run/systemd/system ]; then systemctl daemon-reload; fi; }

if [ "$remove" -eq 1 ]; then
  for unit in lanyard-coordinator lanyard-worker; do
    [ ! -d /run/systemd/system ] || systemctl disable --quiet --now "$unit.service" 2>/dev/null || true
    rm -f "$units/$unit.service" "/etc/sysusers.d/$unit.conf"
  done
  rm -f "$prefix/bin/lanyard" "$prefix/bin/lanyard-coordinator" "$prefix/bin/lanyard-worker" "$prefix/sbin/lanyard-join"
  rm -f "$prefix"/share/man/man[18]/lanyard*.[18] "$prefix"/share/bash-completion/completions/lanyard*
  rm -rf "$home"
  reload
  echo "Removed. Kept: /etc/lanyard, /var/lib/lanyard, the system users lanyard-coordinator and lanyard-worker."
  exit 0
fi

rm -rf "$home.new"
mkdir -p "$home.new" "$prefix/bin" "$prefix/sbin" "$prefix/share/man/man1" "$prefix/share/man/man8" \
  "$prefix/share/bash-completion/completions" "$units" /etc/sysusers.d /etc/lanyard /var/lib/lanyard/models
cp -r "$here/bin" "$here/lib" "$home.new/"
rm -rf "$home"
mv "$home.new" "$home"
for program in lanyard lanyard-coordinator lanyard-worker; do ln -sf "$home/bin/$program" "$prefix/bin/$program"; done
install -m 0755 "$here/sbin/lanyard-join" "$prefix/sbin/"
install -m 0644 "$here"/man/*.1 "$prefix/share/man/man1/"
install -m 0644 "$here"/man/*.8 "$prefix/share/man/man8/"
install -m 0644 "$here"/completions/* "$prefix/share/bash-completion/completions/"
for file in "$here"/etc/*.toml; do
  [ -e "/etc/lanyard/$(basename "$file")" ] || install -m 0644 "$file" /etc/lanyard/
done
for unit in "$here"/systemd/*.service; do
  sed "s|^ExecStart=/usr/bin/|ExecStart=$prefix/bin/|" "$unit" >"$units/$(basename "$unit")"
done
install -m 0644 "$here"/sysusers/*.conf /etc/sysusers.d/
if command -v systemd-sysusers >/dev/null; then systemd-sysusers /etc/sysusers.d/lanyard-*.conf; fi
reload
echo "Installed under $prefix. Next: docs/install.md, or lanyard --help."
