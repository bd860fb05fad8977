#!/bin/bash
# Ceph's S3 for tests: one mon, one memstore osd, one radosgw on 127.0.0.1; all in the foreground.
#
# Usage: ceph_up.sh EMPTY_DIR S3_PORT MON_PORT MON_V1_PORT ACCESS_KEY SECRET_KEY
#
# Writes EMPTY_DIR/up when the gateway answers and the user exists. The daemons die with this
# script, whatever ends it. Region "default".
set -eu

work=$(realpath -m "$1")
s3_port=$2 mon_port=$3 mon_v1_port=$4 access_key=$5 secret_key=$6
mons="[v2:127.0.0.1:$mon_port,v1:127.0.0.1:$mon_v1_port]"
fsid=$(cat /proc/sys/kernel/random/uuid)
mkdir -p "$work"/{mon,osd,log,run,rgw}
export CEPH_CONF=$work/ceph.conf

# ms_mon_client_mode: radosgw defaults to secure and hangs when authentication is off.
# tcp_nodelay: without it a thread gets 22 small objects a second, with it 452.
cat >"$CEPH_CONF" <<CONF
[global]
fsid = $fsid
mon_initial_members = a
mon_host = $mons
public_addr = 127.0.0.1
cluster_addr = 127.0.0.1
auth_cluster_required = none
auth_service_required = none
auth_client_required = none
ms_mon_client_mode = crc
osd_pool_default_size = 1
osd_pool_default_min_size = 1
osd_pool_default_pg_num = 4
mon_allow_pool_size_one = true
osd_crush_chooseleaf_type = 0
mon_max_pg_per_osd = 1000
osd_class_load_list = *
osd_class_default_list = *
run_dir = $work/run
admin_socket = $work/run/\$name.asok
log_file = $work/log/\$name.log
pid_file = $work/run/\$name.pid
crash_dir = $work/log
mon_data_avail_crit = 1
mon_data_avail_warn = 2
[mon.a]
mon_data = $work/mon
[osd.0]
osd_data = $work/osd
osd_objectstore = memstore
memstore_device_bytes = 8589934592
osd_memory_target = 939524096
osd_op_num_shards = 2
[client.rgw]
rgw_frontends = beast endpoint=127.0.0.1:$s3_port tcp_nodelay=1
rgw_thread_pool_size = 64
rgw_data = $work/rgw
rgw_enable_usage_log = false
rgw_dns_name =
CONF

daemon() {
    local log=$1
    shift
    setpriv --pdeathsig KILL "$@" >"$work/log/$log" 2>&1 &
}

wait_for() {
    local tries=300
    until "$@" >/dev/null 2>&1; do
        tries=$((tries - 1))
        [ $tries -gt 0 ] || { echo "ceph_up: no success in time: $*" >&2; exit 1; }
        sleep 0.2
    done
}

answers() { (exec 3<>"/dev/tcp/127.0.0.1/$1"); }
osd_is_up() { ceph --connect-timeout 5 osd stat | grep -q '1 up'; }

monmaptool --create --fsid "$fsid" --addv a "$mons" "$work/monmap" >"$work/log/mkfs" 2>&1
ceph-mon -i a --mkfs --monmap "$work/monmap" >>"$work/log/mkfs" 2>&1
daemon mon.out ceph-mon -i a -f
wait_for answers "$mon_port"

osd_uuid=$(cat /proc/sys/kernel/random/uuid)
ceph --connect-timeout 20 osd new "$osd_uuid" 0 >"$work/log/osdnew" 2>&1
ceph-osd -i 0 --mkfs --osd-uuid "$osd_uuid" >>"$work/log/mkfs" 2>&1
daemon osd.out ceph-osd -i 0 -f
wait_for osd_is_up

daemon rgw.out radosgw -n client.rgw -f
wait_for answers "$s3_port"
radosgw-admin user create --uid=test --display-name=test \
    --access-key="$access_key" --secret-key="$secret_key" >"$work/log/user" 2>&1
touch "$work/up"
wait
