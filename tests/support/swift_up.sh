#!/bin/bash
# OpenStack Swift's S3 for tests: one server of each kind on 127.0.0.1; all in the foreground.
#
# Usage: swift_up.sh EMPTY_DIR SWIFT_BIN S3_PORT ACCOUNT_PORT CONTAINER_PORT OBJECT_PORT ACCESS_KEY SECRET_KEY
#
# ACCESS_KEY is ACCOUNT:USER. The servers die with this script, whatever ends it. Region "us-east-1".
set -eu

work=$(realpath -m "$1")
bin=$2 s3_port=$3 access_key=$7 secret_key=$8
declare -A ports=([account]=$4 [container]=$5 [object]=$6)
mkdir -p "$work"/{etc,node/d1,cache}
cd "$work/etc"

cat >swift.conf <<CONF
[swift-hash]
swift_hash_path_suffix = test
swift_hash_path_prefix = test
[storage-policy:0]
name = default
default = yes
CONF

defaults() {
    cat <<CONF
[DEFAULT]
bind_ip = 127.0.0.1
bind_port = $1
workers = 0
user = $(id -un)
swift_dir = $work/etc
devices = $work/node
mount_check = false
disable_fallocate = true
log_level = ERROR
CONF
}

for name in "${!ports[@]}"; do
    "$bin/swift-ring-builder" "$name.builder" create 6 1 1 >/dev/null
    "$bin/swift-ring-builder" "$name.builder" add "r1z1-127.0.0.1:${ports[$name]}/d1" 100 >/dev/null
    "$bin/swift-ring-builder" "$name.builder" rebalance >/dev/null
    {
        defaults "${ports[$name]}"
        cat <<CONF
[pipeline:main]
pipeline = $name-server
[app:$name-server]
use = egg:swift#$name
CONF
    } >"$name-server.conf"
done

filters="catch_errors gatekeeper proxy-logging cache listing_formats bulk s3api tempauth copy slo dlo"
filters="$filters versioned_writes symlink"
{
    defaults "$s3_port"
    cat <<CONF
[pipeline:main]
pipeline = $filters proxy-server
[app:proxy-server]
use = egg:swift#proxy
account_autocreate = true
allow_account_management = true
CONF
    for filter in $filters; do
        printf '[filter:%s]\nuse = egg:swift#%s\n' "$filter" "${filter/cache/memcache}" |
            sed '/^use/s/proxy-logging/proxy_logging/'
        case $filter in
            # Nobody listens there: Swift works without a cache.
            cache) echo "memcache_servers = 127.0.0.1:1" ;;
            tempauth) echo "user_${access_key/:/_} = $secret_key .admin" ;;
            s3api) printf 'location = us-east-1\ns3_acl = false\n' ;;
            versioned_writes) printf 'allow_versioned_writes = true\nallow_object_versioning = true\n' ;;
        esac
    done
} >proxy-server.conf

for name in account container object; do
    setpriv --pdeathsig KILL "$bin/swift-$name-server" "$name-server.conf" &
done
exec "$bin/swift-proxy-server" proxy-server.conf
