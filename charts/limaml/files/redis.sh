set -eu
umask 077
printf '%s\n' "requirepass $PASSWORD" "dir ${DATA:-/data}" "port ${PORT:-6379}" "save 60 1" "maxmemory-policy noeviction" > /tmp/redis.conf
unset PASSWORD
exec "$SERVER" /tmp/redis.conf --daemonize no
