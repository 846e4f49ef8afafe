set -eu
umask 077
quoted=$(printf %s "$PASSWORD" | sed 's/[\\"]/\\&/g')
printf '%s\n' "requirepass \"$quoted\"" "dir ${DATA:-/data}" "port ${PORT:-6379}" "save 60 1" "maxmemory-policy noeviction" > /tmp/redis.conf
unset PASSWORD quoted
exec "$SERVER" /tmp/redis.conf --daemonize no
