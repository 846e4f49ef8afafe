# Nothing here fails: an uninstall goes on without Kubeflow Pipelines, and does not wait for it once for each application.
for file in /etc/limaml/applications/*.yaml; do
  [ -e "$file" ] || continue
  if ! { timeout 120 limaml schedule delete --app "$file" && timeout 120 limaml pipelines remove --app "$file"; }; then
    echo "schedules and pipelines of $file and of those after it may still be there: delete them in Kubeflow"
    break
  fi
done
exit 0
