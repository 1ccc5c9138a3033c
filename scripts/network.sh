#!/usr/bin/env bash
# Network namespaces for `scripts/cluster up --isolated`; sourced by it, not run.
#
# Each node is in a network namespace of its own. All of them hang on a bridge, which is in one
# more namespace, the hub: nothing is added to the host's network. A table of nftables (family
# bridge) in the hub drops what was cut, by source and destination, so one direction can be cut
# alone. The hub's own address is where `dfsctl` asks from: it is never cut.
#
# Names are made of the cluster's dir, so that clusters run side by side and `down` finds all that
# is left of one, also when the script was killed half-way.
#
# Uses DIR and the functions die, note, nodes of scripts/cluster.

NETNS=/run/netns

network_id() { echo "dfs-$(printf %s "$DIR" | cksum | awk '{printf "%08x", $1}')"; }

# Once isolated a cluster stays so: its addresses are those of its namespaces.
isolated() { [ -e "$DIR/secret" ]; }

namespace() { echo "$(network_id).$1"; }

node_address() { # NODE -> its address in an isolated cluster
  local number=${1##*-}
  case $1 in
    hub) echo 10.73.0.1 ;;
    directory-*) echo "10.73.1.$number" ;;
    server-*) echo "10.73.2.$number" ;;
    mount-*) echo "10.73.3.$number" ;;
    *) die "no such node: $1" ;;
  esac
}

need_network_tools() {
  [ "$(id -u)" = 0 ] || die "--isolated makes network namespaces: only root may"
  need_command ip iproute2
  need_command nft nftables
  need_command nsenter util-linux
}

# The prefix of a command that runs in a node's namespace. Not `ip netns exec`: that makes a mount
# namespace too, and a file system mounted in there is visible nowhere else.
inside() { # NODE
  echo "nsenter --net=$NETNS/$(namespace "$1")"
}

make_hub() {
  local hub
  hub=$(namespace hub)
  if [ -e "$NETNS/$hub" ]; then
    $(inside hub) nft list table bridge dfs >/dev/null 2>&1 && return 0
    ip netns del "$hub"
  fi
  ip netns add "$hub" || die "can't make a network namespace"
  ip -n "$hub" link set lo up
  ip -n "$hub" link add bridge type bridge
  ip -n "$hub" address add "$(node_address hub)/16" dev bridge
  ip -n "$hub" link set bridge up
  $(inside hub) nft -f - <<'RULES' || die "can't make a table of nftables of family bridge"
table bridge dfs {
  set pairs { type ipv4_addr . ipv4_addr; }
  set whole { type ipv4_addr; }
  chain forward {
    type filter hook forward priority 0; policy accept;
    ip saddr . ip daddr @pairs drop
    ip saddr @whole drop
    ip daddr @whole drop
  }
}
RULES
}

make_namespace() { # NODE
  local node=$1 hub name
  hub=$(namespace hub)
  name=$(namespace "$node")
  make_hub
  # One that a killed script left half-made is made anew.
  if [ -e "$NETNS/$name" ]; then
    ip -n "$name" link show eth0 up 2>/dev/null | grep -q . && return 0
    ip netns del "$name"
  fi
  ip netns add "$name"
  ip -n "$name" link set lo up
  ip -n "$hub" link del "$node" 2>/dev/null || true
  ip -n "$hub" link add "$node" type veth peer name eth0 netns "$name"
  ip -n "$hub" link set "$node" master bridge up
  ip -n "$name" address add "$(node_address "$node")/16" dev eth0
  ip -n "$name" link set eth0 up
}

remove_network() {
  local file id pid
  id=$(network_id)
  for file in "$NETNS/$id".*; do
    [ -e "$file" ] || continue
    # Whatever runs in there was started by this cluster.
    for pid in $(ip netns pids "${file##*/}"); do kill -s KILL "$pid" 2>/dev/null || true; done
    ip netns del "${file##*/}" || note "can't remove the network namespace ${file##*/}"
  done
}

known_node() { # NODE: die if it has no namespace here
  [ -e "$NETNS/$(namespace "$1")" ] || die "no such node in this cluster: $1"
}

# A node, or all of a kind: servers, mounts, directories; or all that there are.
members() { # NODES -> one name a line
  local file kind
  case $1 in
    servers | mounts) set -- "${1%s}" ;;
    directories) set -- directory ;;
    all) for kind in directories servers mounts; do members "$kind"; done; return 0 ;;
    *) known_node "$1"; echo "$1"; return 0 ;;
  esac
  for file in "$NETNS/$(network_id).$1"-*; do
    [ -e "$file" ] && echo "${file##*.}"
  done
  return 0
}

change_cuts() { # add|delete FROM [TO]
  local verb=$1 from to
  isolated || die "this cluster is not isolated: start it with 'up --isolated'"
  local rules=()
  if [ $# = 2 ]; then
    for from in $(members "$2"); do
      rules+=("$verb element bridge dfs whole { $(node_address "$from") }")
    done
  else
    for from in $(members "$2"); do
      for to in $(members "$3"); do
        # A node is no peer of itself.
        [ "$from" != "$to" ] || continue
        rules+=("$verb element bridge dfs pairs { $(node_address "$from") . $(node_address "$to") }")
      done
    done
  fi
  [ ${#rules[@]} -gt 0 ] || die "there is nothing between ${*:2}"
  if [ "$verb" = add ]; then
    printf '%s\n' "${rules[@]}" | $(inside hub) nft -f - || die "the cut was not made"
    return 0
  fi
  local rule
  for rule in "${rules[@]}"; do
    # What is not cut is healed already.
    $(inside hub) nft "$rule" 2>/dev/null || true
  done
}

cut_network() { change_cuts add "$@"; }

heal_network() { # [FROM [TO]]; without nodes: everything
  if [ $# -gt 0 ]; then
    change_cuts delete "$@"
    return 0
  fi
  isolated || die "this cluster is not isolated: nothing is cut"
  printf 'flush set bridge dfs pairs\nflush set bridge dfs whole\n' | $(inside hub) nft -f -
}

show_cuts() {
  local set
  [ -e "$NETNS/$(namespace hub)" ] || return 0
  for set in pairs whole; do
    $(inside hub) nft list set bridge dfs "$set" | grep -oE '10\.73\.[0-9.]+( \. 10\.73\.[0-9.]+)?' \
      | sed -E 's/10\.73\.1\./directory-/g; s/10\.73\.2\./server-/g; s/10\.73\.3\./mount-/g; s/ \. / -> /; s/^/cut: /' || true
  done
}
