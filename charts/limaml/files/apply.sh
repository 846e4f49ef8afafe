# What Kubeflow should know of every application: its pipelines and schedules. One that fails does not keep back the others.
failed=0
for file in /etc/limaml/applications/*.yaml; do
  limaml schedule apply --register --app "$file" --kfp-namespace "$NAMESPACE" || failed=$?
done
exit $failed
