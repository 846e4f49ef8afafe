# Two roles that pods take on through their service account, each with what its code asks for and nothing else.

locals {
  issuer = replace(var.oidc_provider_arn, "/^.*:oidc-provider\\//", "")

  roles = {
    pipelines = { accounts = var.pipeline_service_accounts, policy = data.aws_iam_policy_document.pipelines.json }
    scorer    = { accounts = var.scorer_service_accounts, policy = data.aws_iam_policy_document.scorer.json }
  }
}

data "aws_iam_policy_document" "trust" {
  for_each = { pipelines = var.pipeline_service_accounts, scorer = var.scorer_service_accounts }

  statement {
    actions = ["sts:AssumeRoleWithWebIdentity"]

    principals {
      type        = "Federated"
      identifiers = [var.oidc_provider_arn]
    }

    condition {
      test     = "StringEquals"
      variable = "${local.issuer}:aud"
      values   = ["sts.amazonaws.com"]
    }

    condition {
      test     = "StringEquals"
      variable = "${local.issuer}:sub"
      values   = [for each in each.value : "system:serviceaccount:${each}"]
    }
  }
}

# Steps write the workspace and publish releases. They read exposures, for the A/B report.
data "aws_iam_policy_document" "pipelines" {
  statement {
    sid       = "ListBucket"
    actions   = ["s3:ListBucket", "s3:ListBucketMultipartUploads", "s3:GetBucketLocation"]
    resources = [aws_s3_bucket.workspace.arn]
  }

  statement {
    sid       = "Objects"
    actions   = ["s3:GetObject", "s3:PutObject", "s3:DeleteObject", "s3:AbortMultipartUpload", "s3:ListMultipartUploadParts"]
    resources = ["${aws_s3_bucket.workspace.arn}/*"]
  }

  statement {
    sid = "Releases"
    actions = [
      "dynamodb:GetItem",
      "dynamodb:Query",
      "dynamodb:BatchGetItem",
      "dynamodb:BatchWriteItem",
      "dynamodb:PutItem",
      "dynamodb:DeleteItem",
      "dynamodb:ConditionCheckItem",
    ]
    resources = [aws_dynamodb_table.embeddings.arn]
  }

  dynamic "statement" {
    for_each = var.kms_key_arn != "" ? [var.kms_key_arn] : []

    content {
      sid       = "Key"
      actions   = ["kms:Decrypt", "kms:GenerateDataKey"]
      resources = [statement.value]
    }
  }
}

# Scorers read models and releases, and write nothing but exposures.
data "aws_iam_policy_document" "scorer" {
  statement {
    sid       = "ListModels"
    actions   = ["s3:ListBucket"]
    resources = [aws_s3_bucket.workspace.arn]

    condition {
      test     = "StringLike"
      variable = "s3:prefix"
      values   = ["${var.workspace_prefix}/*", "${var.exposures_prefix}/*"]
    }
  }

  statement {
    sid       = "ReadModels"
    actions   = ["s3:GetObject"]
    resources = ["${aws_s3_bucket.workspace.arn}/${var.workspace_prefix}/*/model/*"]
  }

  statement {
    sid       = "WriteExposures"
    actions   = ["s3:PutObject", "s3:AbortMultipartUpload"]
    resources = ["${aws_s3_bucket.workspace.arn}/${var.exposures_prefix}/*"]
  }

  statement {
    sid       = "ReadReleases"
    actions   = ["dynamodb:GetItem", "dynamodb:Query", "dynamodb:BatchGetItem"]
    resources = [aws_dynamodb_table.embeddings.arn]
  }

  dynamic "statement" {
    for_each = var.kms_key_arn != "" ? [var.kms_key_arn] : []

    content {
      sid       = "Key"
      actions   = ["kms:Decrypt", "kms:GenerateDataKey"]
      resources = [statement.value]
    }
  }
}

resource "aws_iam_role" "this" {
  for_each = local.roles

  name               = "${var.name}-${each.key}"
  description        = "LiMAML ${each.key}: service accounts ${join(", ", each.value.accounts)}"
  assume_role_policy = data.aws_iam_policy_document.trust[each.key].json
}

resource "aws_iam_role_policy" "this" {
  for_each = local.roles

  name   = "limaml"
  role   = aws_iam_role.this[each.key].id
  policy = each.value.policy
}
