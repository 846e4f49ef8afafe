# What Kubeflow should know of every application: its pipelines and schedules. One that fails does not keep back others.
failed=0
for file in /etc/limaml/applications/*.yaml; do
  [ -e "$file" ] || continue
  limaml schedule apply --register --app "$file" || failed=$?
done
for file in /etc/limaml/removed/*.yaml; do
  [ -e "$file" ] || continue
  limaml schedule delete --app "$file" && limaml pipelines remove --app "$file" || failed=$?
done
exit $failed
