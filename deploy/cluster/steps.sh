# shellcheck shell=bash disable=SC2329 # functions are called by their names, by item
# What setup-coordinator, setup-transfer and setup-worker share; sourced by them, never run.
#
# A machine is a list of items. Each is looked at first and only touched if it is not as it should
# be, so that a second run changes nothing, and `--check` is the first half of the same code.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=${EARMARK_ROOT:-}
check_only=
missing=0

usage() {
  cat <<END
Usage: $(basename "$0") [--check] [--env FILE]

$1

  --check     change nothing; exit status 0 if every item is ok, 1 if one is missing
  --env FILE  addresses, paths and users (default: /etc/earmark/earmark.env if there is one,
              else earmark.env beside this script)
  --help      this text

Without --check: exit status 0 if all is ok at the end, 1 if something is left to be done by hand.
Run it again at any time; what is as it should be is not touched. Run it as root.

EARMARK_ROOT=DIR writes files below DIR instead of / and leaves users, packages, daemons, mounts
and devices alone, to see what would be written.
END
}

die() {
  echo "$(basename "$0"): $*" >&2
  exit 2
}

# begin DESCRIPTION ARGUMENTS...: read the command line and the environment file.
begin() {
  local description=$1
  env=
  shift
  while (($#)); do
    case $1 in
      --check) check_only=1 ;;
      --env)
        (($# > 1)) || die "--env wants a file"
        env=$2
        shift
        ;;
      --help)
        usage "$description"
        exit 0
        ;;
      *) die "unknown argument '$1'; see --help" ;;
    esac
    shift
  done
  if [[ -z $env ]]; then
    env=$root/etc/earmark/earmark.env
    [[ -e $env ]] || env=$here/earmark.env
  fi
  read_env "$env"
  [[ -n $root || $EUID == 0 ]] || die "run it as root"
  umask 022
}

# The file is data: it is not sourced, so that a slip in it runs nothing.
read_env() {
  local line number=0 name value
  [[ -r $1 ]] || die "can't read $1"
  while IFS= read -r line || [[ -n $line ]]; do
    number=$((number + 1))
    [[ $line =~ ^[[:space:]]*(#.*)?$ ]] && continue
    [[ $line =~ ^([A-Z][A-Z0-9_]*)=(\"[^\"\$\`\\]*\"|[^[:space:]\"\'\$\`\\\;\&\|\<\>\(\)#]*)$ ]] ||
      die "$1, line $number: expected NAME=value, with double quotes around blanks"
    name=${BASH_REMATCH[1]} value=${BASH_REMATCH[2]}
    case $name in
      *PASSWORD* | *TOKEN*) die "$1, line $number: no secret may stand in this file; take $name out" ;;
      PATH | LD_* | BASH* | IFS | ENV) die "$1, line $number: $name is not to be set here" ;;
    esac
    value=${value#\"}
    declare -g "$name=${value%\"}"
  done < "$1"
  for name in COORDINATOR TRANSFER WORKERS NODE_CPUS NODE_MEMORY_MB NODE_RESERVED_MB \
    WORKER_CPUS_WITHOUT_GPU VOLUME_ROOT VOLUME_DEVICE VOLUME_FILESYSTEM EARMARK_USER EARMARK_UID \
    EARMARK_HOME EARMARK_CHECKOUT EARMARK_CONFIG EARMARK_TRIGGER POSTGRES_HOST POSTGRES_PORT \
    POSTGRES_DB POSTGRES_USER HF_HOME; do
    [[ -n ${!name:-} ]] || die "$1 lacks $name"
  done
  for name in VOLUME_ROOT VOLUME_DEVICE EARMARK_HOME EARMARK_CHECKOUT EARMARK_CONFIG HF_HOME; do
    [[ ${!name} =~ ^(/[A-Za-z0-9._-]+)+$ ]] ||
      die "$1: $name is '${!name}'; expected an absolute path of letters, digits and ._-"
  done
  [[ $EARMARK_HOME == /var/* || $EARMARK_HOME == /srv/* || $EARMARK_HOME == /opt/* ]] ||
    die "$1: EARMARK_HOME is '$EARMARK_HOME'; expected one below /var, /srv or /opt, as" \
      "earmark-cycle.service hides people's homes (ProtectHome)"
  for name in POSTGRES_DB POSTGRES_USER EARMARK_USER; do
    [[ ${!name} =~ ^[a-z_][a-z0-9_-]*$ ]] || die "$1: $name is '${!name}'; expected a plain name"
  done
  for name in NODE_CPUS NODE_MEMORY_MB NODE_RESERVED_MB WORKER_CPUS_WITHOUT_GPU EARMARK_UID \
    POSTGRES_PORT; do
    [[ ${!name} =~ ^[0-9]+$ ]] || die "$1: $name is '${!name}'; expected a number"
  done
  [[ $EARMARK_TRIGGER =~ ^(systemd|cron)$ ]] || die "$1: EARMARK_TRIGGER is systemd or cron"
  # Earlier files have none of these.
  REVIEW_HOST=${REVIEW_HOST:-} REVIEW_TLS=${REVIEW_TLS:-internal} VOLUME_SHARE=${VOLUME_SHARE:-nfs}
  [[ $VOLUME_SHARE =~ ^(nfs|other)$ ]] || die "$1: VOLUME_SHARE is nfs or other"
  [[ $REVIEW_HOST =~ ^([a-z0-9.-]+)?$ ]] || die "$1: REVIEW_HOST is '$REVIEW_HOST'; expected a host's name"
  [[ $REVIEW_TLS =~ ^(internal|[A-Za-z0-9.+_-]+@[A-Za-z0-9.-]+|(/[A-Za-z0-9._-]+)+\ (/[A-Za-z0-9._-]+)+)$ ]] ||
    die "$1: REVIEW_TLS is '$REVIEW_TLS'; expected internal, a mail address, or a certificate's and a" \
      "key's absolute paths"
  read_machines "$1"
}

# From the machines' names and addresses, what the templates want.
read_machines() {
  local machine name address seen=" "
  NODES='' WORKER_NAMES='' DATABASE_CLIENTS='' NODE_ADDRESSES=()
  local size="CPUs=$NODE_CPUS RealMemory=$NODE_MEMORY_MB MemSpecLimit=$NODE_RESERVED_MB State=UNKNOWN"
  for machine in "COORDINATOR $COORDINATOR" "TRANSFER $TRANSFER" "${WORKERS/#/WORKERS }"; do
    [[ $machine == *" "* ]] || die "$1: ${machine%% *} names no machine"
  done
  for machine in $COORDINATOR $TRANSFER $WORKERS; do
    name=${machine%%=*} address=${machine#*=}
    [[ $name =~ ^[a-z][a-z0-9-]*$ && $address =~ ^[0-9]{1,3}(\.[0-9]{1,3}){3}$ ]] ||
      die "$1: '$machine' is no machine; expected name=address, such as worker1=10.0.0.3"
    [[ $seen != *" $name "* && $seen != *" $address "* ]] || die "$1: '$machine' stands there twice"
    seen+="$name $address "
    DATABASE_CLIENTS+=$(printf 'host    %s   %s  %-14s scram-sha-256' \
      "$POSTGRES_DB" "$POSTGRES_USER" "$address/32")$'\n'
    if [[ $machine == "$COORDINATOR" ]]; then
      COORDINATOR_NAME=$name COORDINATOR_ADDRESS=$address
      continue
    fi
    NODE_ADDRESSES+=("$address")
    if [[ $machine == "$TRANSFER" ]]; then
      TRANSFER_NAME=$name
      NODES+="NodeName=$name NodeAddr=$address $size"$'\n'
    else
      WORKER_NAMES+=${WORKER_NAMES:+,}$name
      NODES+="NodeName=$name NodeAddr=$address $size Gres=gpu:l4:1"$'\n'
    fi
  done
  NODES=${NODES%$'\n'} DATABASE_CLIENTS=${DATABASE_CLIENTS%$'\n'}
  : "$COORDINATOR_NAME" "$COORDINATOR_ADDRESS" "$TRANSFER_NAME" "${NODE_ADDRESSES[*]}"
}

# render TEMPLATE: the template with each @NAME@ replaced by the variable of that name.
render() {
  local text name
  text=$(< "$here/$1")
  while [[ $text =~ @([A-Z][A-Z0-9_]*)@ ]]; do
    name=${BASH_REMATCH[1]}
    [[ -v $name ]] || die "$1 wants $name, which the environment file does not set"
    text=${text//"@$name@"/"${!name}"}
  done
  printf '%s\n' "$text"
}

# item WHAT CHECK [APPLY [REMEDY]]: the one way to look at something and to put it right. CHECK and
# APPLY are commands; an item without APPLY is put right by a person, as REMEDY says.
item() {
  local what=$1 check=$2 apply=${3:-} remedy=${4:-}
  if $check; then
    echo "ok       $what"
  elif [[ -n $apply && -z $check_only ]] && $apply && $check; then
    echo "done     $what"
  else
    echo "missing  $what${remedy:+: $remedy}"
    missing=1
  fi
}

# on_machine WHAT CHECK [APPLY [REMEDY]]: an item that is no file, and that a prefix leaves alone.
on_machine() {
  if [[ -z $root ]]; then
    item "$@"
  fi
}

# owned OWNER PATH
owned() {
  [[ -n $root || $(stat --format %U:%G "$root$2") == "$1" ]]
}

# own OWNER PATH...
own() {
  [[ -n $root ]] || chown --no-dereference "$@"
}

# install_file MODE OWNER PATH < CONTENT: the file has this content, mode and owner.
install_file() {
  local mode=$1 owner=$2 path=$3 content
  content=$(cat && printf x)
  content=${content%x}
  [[ -n $content ]] || die "there is nothing to write to $path" # its template failed
  file_is_right() {
    [[ -f $root$path ]] && cmp --quiet "$root$path" <(printf %s "$content") &&
      [[ 0$(stat --format %a "$root$path") == "$mode" ]] && owned "$owner" "$path"
  }
  write_file() {
    local new
    mkdir --parents "$(dirname "$root$path")" &&
      new=$(mktemp "$root$path.XXXXXX") &&
      printf %s "$content" > "$new" && chmod "$mode" "$new" && own "$owner" "$new" &&
      mv "$new" "$root$path"
  }
  item "$path" file_is_right write_file
}

# install_secret OWNER PATH MAKE: a file that only its owner can read, made once by `MAKE FILE`;
# its content is never compared or shown. With MAKE '' it has to be brought from the coordinator.
install_secret() {
  local owner=$1 path=$2 make=$3 remedy=
  [[ -n $make ]] ||
    remedy="copy it from $COORDINATOR_NAME (docs/deploy.md, step 5) and run this again"
  secret_is_right() {
    [[ -s $root$path && ! -L $root$path && $(stat --format %a "$root$path") == 600 ]] &&
      owned "$owner" "$path"
  }
  write_secret() {
    local new
    # Its folder may belong to a user, who must not lead root elsewhere by a link.
    [[ ! -L $root$path ]] || return 1
    if [[ ! -s $root$path ]]; then
      [[ -n $make ]] || return 1
      mkdir --parents "$(dirname "$root$path")" && new=$(mktemp "$root$path.XXXXXX") &&
        $make "$new" && mv "$new" "$root$path" || return 1
    fi
    chmod 600 "$root$path" && own "$owner" "$root$path"
  }
  item "$path" secret_is_right write_secret "$remedy"
}

# install_folder MODE OWNER PATH
install_folder() {
  local mode=$1 owner=$2 path=$3
  folder_is_right() {
    [[ -d $root$path && 0$(stat --format %a "$root$path") == "$mode" ]] && owned "$owner" "$path"
  }
  make_folder() {
    mkdir --parents "$root$path" && chmod "$mode" "$root$path" && own "$owner" "$root$path"
  }
  item "$path/" folder_is_right make_folder
}

# install_packages NAME...
install_packages() {
  local wanted=("$@")
  packages_are_there() {
    local name
    for name in "${wanted[@]}"; do
      [[ $(dpkg-query --show --showformat '${db:Status-Status}' "$name" 2> /dev/null) == installed ]] ||
        return 1
    done
  }
  get_packages() {
    export DEBIAN_FRONTEND=noninteractive
    apt-get update --quiet=2 && apt-get install --quiet=2 --no-install-recommends "${wanted[@]}"
  }
  on_machine "packages: $*" packages_are_there get_packages
}

# The user that everything of Earmark runs as: no password, no login, no sudo.
service_user() {
  user_is_right() { [[ $(id --user "$EARMARK_USER" 2> /dev/null) == "$EARMARK_UID" ]]; }
  make_user() {
    ! id "$EARMARK_USER" > /dev/null 2>&1 &&
      groupadd --gid "$EARMARK_UID" "$EARMARK_USER" &&
      useradd --uid "$EARMARK_UID" --gid "$EARMARK_UID" --home-dir "$EARMARK_HOME" --create-home \
        --shell /usr/sbin/nologin "$EARMARK_USER"
  }
  on_machine "user $EARMARK_USER with number $EARMARK_UID" user_is_right make_user \
    "the name or the number is taken by another; NFS and SLURM want the same on all machines"
  install_folder 0750 "$EARMARK_USER:$EARMARK_USER" "$EARMARK_HOME"
  install_folder 0750 "$EARMARK_USER:$EARMARK_USER" /var/log/earmark
}

# as_user COMMAND...: run it as the service user, in its home, with the environment file's values.
as_user() {
  runuser --user "$EARMARK_USER" -- env --ignore-environment --chdir="$EARMARK_HOME" \
    HOME="$EARMARK_HOME" PATH="$EARMARK_CHECKOUT/.venv/bin:/usr/local/bin:/usr/bin:/bin" \
    LANG=C.UTF-8 VOLUME_ROOT="$VOLUME_ROOT" HF_HOME="$HF_HOME" POSTGRES_HOST="$POSTGRES_HOST" \
    POSTGRES_PORT="$POSTGRES_PORT" POSTGRES_DB="$POSTGRES_DB" POSTGRES_USER="$POSTGRES_USER" \
    "$@"
}

# The environment file, and the machine's clock and name, which munge and SLURM trust.
machine_is_one_of() {
  install_file 0644 root:root /etc/earmark/earmark.env < "$env"
  local names=" ${*//,/ } "
  name_is_known() { [[ $names == *" $(hostname -s) "* ]]; }
  on_machine "the machine's name is one of:$names" name_is_known '' \
    "give it its name of the environment file: hostnamectl set-hostname NAME"
  clock_is_right() { [[ $(timedatectl show --property NTPSynchronized --value 2> /dev/null) == yes ]]; }
  on_machine "the clock is synchronised" clock_is_right '' \
    "munge refuses what is five minutes off; timedatectl set-ntp true, or install chrony"
}

# slurm_files: what slurmctld and slurmd read, the same on all machines.
slurm_files() {
  install_file 0644 root:root /etc/slurm/slurm.conf < <(render slurm.conf)
  install_file 0644 root:root /etc/slurm/gres.conf < <(render gres.conf)
  install_file 0644 root:root /etc/slurm/cgroup.conf < <(render cgroup.conf)
  install_folder 0755 slurm:slurm /var/log/slurm
  install_file 0644 root:root /etc/logrotate.d/earmark < <(render earmark.logrotate)
}

is_up() {
  systemctl is-enabled --quiet "$1" 2> /dev/null && systemctl is-active --quiet "$1" 2> /dev/null
}

# is_newer UNIT FILE...: whether a file came to be what it is after the unit started. Who copies a
# file may keep its time of modification; the time of its last change is the kernel's.
is_newer() {
  local started
  started=$(systemctl show --property ActiveEnterTimestampMonotonic --value "$1")
  { stat --format %.9Z "${@:2}" 2> /dev/null || true; } |
    awk -v now="$(date +%s.%N)" -v up="$(cut --delimiter=' ' --fields=1 /proc/uptime)" \
      -v started="$started" '$1 > now - up + started / 1e6 { newer = 1 } END { exit !newer }'
}

# serve UNIT PROBE FILE...: the unit is enabled, answers the command PROBE, and has been started
# since each FILE, and what is beside its unit file, is what it is. With a PROBE of `true`, that it
# runs is all that can be asked.
serve() {
  local unit=$1 probe=$2
  local files=("${@:3}" /etc/systemd/system/"${unit/@*./@.}".d/*.conf)
  unit_serves() { is_up "$unit" && ! is_newer "$unit" "${files[@]}" && $probe; }
  start_unit() {
    systemctl daemon-reload && systemctl enable --quiet "$unit" && systemctl restart "$unit" &&
      wait_for "$probe"
  }
  on_machine "$unit runs, with its files of today" unit_serves start_unit \
    "see systemctl status $unit"
}

# wait_for COMMAND: half a minute, for a daemon that answers a moment after it has started.
wait_for() {
  local try
  for ((try = 0; try < 30; try++)); do
    if $1; then
      return
    fi
    sleep 1
  done
  return 1
}

munge_answers() { munge --no-input 2> /dev/null | unmunge > /dev/null 2>&1; }
slurmd_answers() { timeout 20 scontrol show slurmd > /dev/null 2>&1; }

# restarts UNIT: it is started again whenever it ends by itself; Debian's own units are not.
restarts() {
  install_file 0644 root:root "/etc/systemd/system/$1.d/earmark-restart.conf" < "$here/restart.conf"
}

# The volume's mount point: nobody can write into it while nothing is mounted there.
mount_point() {
  there() { [[ -d $root$VOLUME_ROOT ]]; }
  make_mount_point() {
    mkdir --parents "$root$VOLUME_ROOT" && { [[ -n $root ]] || chmod 000 "$VOLUME_ROOT"; }
  }
  item "$VOLUME_ROOT/" there make_mount_point
}

# fstab_entry LINE: the line is in /etc/fstab, and no other for the volume is.
fstab_entry() {
  local line=$1 table=$root/etc/fstab
  others() { awk -v point="$VOLUME_ROOT" '$1 ~ /^#/ || $2 != point' "$table"; }
  entry_is_right() {
    [[ -f $table ]] && grep --quiet --line-regexp --fixed-strings -- "$line" "$table" &&
      (($(wc --lines < "$table") == $(others | wc --lines) + 1))
  }
  write_entry() {
    local new
    mkdir --parents "$(dirname "$table")" && touch "$table" && new=$(mktemp "$table.XXXXXX") &&
      { others && printf '%s\n' "$line"; } > "$new" && chmod 0644 "$new" && mv "$new" "$table"
  }
  item "/etc/fstab has $VOLUME_ROOT" entry_is_right write_entry
  is_mounted() { mountpoint --quiet "$VOLUME_ROOT"; }
  mount_it() { systemctl daemon-reload && mount "$VOLUME_ROOT"; }
  on_machine "$VOLUME_ROOT is mounted" is_mounted mount_it "see what \`mount $VOLUME_ROOT\` says"
}

# The volume where something else than these scripts shares it; what they wrote for it before goes.
volume_by_others() {
  local table=$root/etc/fstab
  own_line="^($COORDINATOR_ADDRESS:$VOLUME_ROOT|$VOLUME_DEVICE) $VOLUME_ROOT "
  no_own_line() { [[ ! -e $table ]] || ! grep --quiet --extended-regexp "$own_line" "$table"; }
  drop_own_line() { sed --in-place --regexp-extended "\\#$own_line#d" "$table"; }
  item "/etc/fstab leaves $VOLUME_ROOT to others" no_own_line drop_own_line
  stop_export() { [[ -n $root ]] || systemctl disable --now nfs-server.service; }
  absent /etc/exports.d/earmark.exports stop_export
  is_mounted() { mountpoint --quiet "$VOLUME_ROOT"; }
  on_machine "$VOLUME_ROOT is mounted" is_mounted '' \
    "VOLUME_SHARE is not nfs, so it is to be mounted by what shares it"
}

# The volume as the transfer machine and the workers see it; docs/deploy.md has the reasons.
volume_of_node() {
  if [[ $VOLUME_SHARE == other ]]; then
    volume_by_others
    return
  fi
  install_packages nfs-common
  mount_point
  fstab_entry "$COORDINATOR_ADDRESS:$VOLUME_ROOT $VOLUME_ROOT nfs hard,vers=4.2,proto=tcp,noatime,lookupcache=positive,nosuid,nodev,_netdev,nofail,x-systemd.automount 0 0"
}

# The checkout and what `make` makes in it.
python_environment() {
  # As the service user: over NFS root is a nobody, who may not look into the volume.
  checkout_is_there() { as_user test -e "$EARMARK_CHECKOUT/Makefile"; }
  on_machine "the checkout in $EARMARK_CHECKOUT" checkout_is_there '' \
    "clone the repository there as $EARMARK_USER"
  environment_is_made() {
    as_user test -e "$EARMARK_CHECKOUT/.venv/.installed" &&
      ! as_user test "$EARMARK_CHECKOUT/requirements.lock" -nt "$EARMARK_CHECKOUT/.venv/.installed" &&
      as_user "$EARMARK_CHECKOUT/.venv/bin/earmark" --version > /dev/null
  }
  make_environment() { as_user make --directory "$EARMARK_CHECKOUT" install; }
  on_machine "its Python environment" environment_is_made make_environment \
    "see what \`make install\` says there"
}

# What a machine needs to take part in SLURM: the configuration, the shared key, the health check.
slurm_node() {
  slurm_files
  install_file 0755 root:root /usr/local/lib/earmark/node-health < "$here/node-health"
  install_secret munge:munge /etc/munge/munge.key ''
  install_secret "$EARMARK_USER:$EARMARK_USER" "$EARMARK_HOME/.pgpass" ''
  restarts munge.service
  serve munge.service munge_answers /etc/munge/munge.key
  memory_suffices() {
    (($(awk '/^MemTotal:/ {print int($2 / 1024)}' /proc/meminfo) >= NODE_MEMORY_MB &&
      $(nproc --all) >= NODE_CPUS))
  }
  on_machine "at least $NODE_CPUS cores and $NODE_MEMORY_MB MB of memory" memory_suffices '' \
    "lower NODE_CPUS or NODE_MEMORY_MB; SLURM drains a node that has less than it should"
  restarts slurmd.service
  serve slurmd.service slurmd_answers /etc/slurm/slurm.conf /etc/slurm/gres.conf \
    /etc/slurm/cgroup.conf /etc/munge/munge.key
  controller_answers() { timeout 20 sinfo --noheader > /dev/null 2>&1; }
  on_machine "slurmctld answers: the munge keys are the same" controller_answers '' \
    "copy munge.key from $COORDINATOR_NAME again; is port 6817 open, does slurmctld run?"
  on_machine "PostgreSQL lets $POSTGRES_USER in from here" database_answers '' \
    "copy .pgpass from $COORDINATOR_NAME again; is port $POSTGRES_PORT open?"
}

# absent PATH [BEFORE]: no such file; BEFORE is called before it is removed.
absent() {
  local path=$1 before=${2:-true}
  is_absent() { [[ ! -e $root$path ]]; }
  remove() { $before && rm "$root$path"; }
  item "no $path" is_absent remove
}

conninfo() {
  echo "host=$POSTGRES_HOST port=$POSTGRES_PORT dbname=$POSTGRES_DB user=$POSTGRES_USER connect_timeout=10"
}

# models_are_there: whether download-models has brought what the configuration names.
models_are_there() { "$here/download-models" --check --env "$env" > /dev/null 2>&1; }

database_answers() {
  as_user psql --no-psqlrc --no-password --quiet --command 'SELECT 1' "$(conninfo)" > /dev/null 2>&1
}

# The key and alias of the host that archives come from (docs/ingest.md).
source_host() {
  source_is_known() { [[ -s $EARMARK_HOME/.ssh/ssh_config ]]; }
  on_machine "$EARMARK_HOME/.ssh/ssh_config" source_is_known '' \
    "docs/ingest.md tells what it and its key are, unless source.kind is folder"
}

end() {
  exit "$missing"
}
