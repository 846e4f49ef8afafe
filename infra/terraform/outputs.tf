output "workspace" {
  description = "URI of the workspace."
  value       = "s3://${aws_s3_bucket.workspace.id}/${var.workspace_prefix}"
}

output "exposures" {
  description = "URI for experiment.exposures.url."
  value       = "s3://${aws_s3_bucket.workspace.id}/${var.exposures_prefix}"
}

output "store_url" {
  description = "URL of the online store."
  value       = "dynamodb://${var.region}/${aws_dynamodb_table.embeddings.name}"
}

output "image_repository" {
  description = "Where to push the image."
  value       = aws_ecr_repository.image.repository_url
}

output "pipelines_role_arn" {
  description = "Role of the pipelines' steps."
  value       = aws_iam_role.this["pipelines"].arn
}

output "scorer_role_arn" {
  description = "Role of the scorers."
  value       = aws_iam_role.this["scorer"].arn
}

output "chart_values" {
  description = "Values for charts/limaml: terraform output -raw chart_values > aws-values.yaml"
  value = yamlencode({
    image     = { repository = aws_ecr_repository.image.repository_url }
    workspace = { uri = "s3://${aws_s3_bucket.workspace.id}/${var.workspace_prefix}" }
    store     = { url = "dynamodb://${var.region}/${aws_dynamodb_table.embeddings.name}" }
    aws       = { region = var.region }
    scorer = {
      serviceAccount = { annotations = { "eks.amazonaws.com/role-arn" = aws_iam_role.this["scorer"].arn } }
    }
    runs = {
      serviceAccount = {
        create      = true
        annotations = { "eks.amazonaws.com/role-arn" = aws_iam_role.this["pipelines"].arn }
      }
    }
  })
}
