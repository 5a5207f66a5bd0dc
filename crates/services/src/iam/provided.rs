//! Policies that AWS provides: which of them roles can have here. Their names are known, what they say is not kept. Pure.
//!
//! A name that is not in the table is refused, as one that is misspelled is on AWS.

/// What all of their ARNs begin with.
const HEAD: &str = "arn:aws:iam::aws:policy";

/// Path and names, in the order of lists: by name within a path. Source: AWS Managed Policy Reference Guide; those that
/// functions, and what is deployed with functions, are given.
const TABLE: &[(&str, &[&str])] = &[
    (
        "/",
        &[
            "AWSAppSyncAdministrator",
            "AWSAppSyncInvokeFullAccess",
            "AWSCertificateManagerFullAccess",
            "AWSCertificateManagerReadOnly",
            "AWSCloudFormationFullAccess",
            "AWSCloudFormationReadOnlyAccess",
            "AWSCloudTrail_FullAccess",
            "AWSCloudTrail_ReadOnlyAccess",
            "AWSCodeBuildAdminAccess",
            "AWSCodeBuildReadOnlyAccess",
            "AWSCodeCommitFullAccess",
            "AWSCodeCommitPowerUser",
            "AWSCodeCommitReadOnly",
            "AWSCodeDeployFullAccess",
            "AWSCodePipeline_FullAccess",
            "AWSCodePipeline_ReadOnlyAccess",
            "AWSGlueConsoleFullAccess",
            "AWSIoTDataAccess",
            "AWSIoTFullAccess",
            "AWSKeyManagementServicePowerUser",
            "AWSLambdaExecute",
            "AWSLambdaInvocation-DynamoDB",
            "AWSLambda_FullAccess",
            "AWSLambda_ReadOnlyAccess",
            "AWSOrganizationsReadOnlyAccess",
            "AWSStepFunctionsConsoleFullAccess",
            "AWSStepFunctionsFullAccess",
            "AWSStepFunctionsReadOnlyAccess",
            "AWSXRayDaemonWriteAccess",
            "AWSXrayFullAccess",
            "AWSXrayReadOnlyAccess",
            "AWSXrayWriteOnlyAccess",
            "AdministratorAccess",
            "AmazonAPIGatewayAdministrator",
            "AmazonAPIGatewayInvokeFullAccess",
            "AmazonAthenaFullAccess",
            "AmazonBedrockFullAccess",
            "AmazonBedrockReadOnly",
            "AmazonCognitoPowerUser",
            "AmazonCognitoReadOnly",
            "AmazonDocDBFullAccess",
            "AmazonDocDBReadOnlyAccess",
            "AmazonDynamoDBFullAccess",
            "AmazonDynamoDBFullAccess_v2",
            "AmazonDynamoDBReadOnlyAccess",
            "AmazonEC2ContainerRegistryFullAccess",
            "AmazonEC2ContainerRegistryPowerUser",
            "AmazonEC2ContainerRegistryReadOnly",
            "AmazonEC2FullAccess",
            "AmazonEC2ReadOnlyAccess",
            "AmazonECS_FullAccess",
            "AmazonEKSClusterPolicy",
            "AmazonEKSWorkerNodePolicy",
            "AmazonEKS_CNI_Policy",
            "AmazonESFullAccess",
            "AmazonESReadOnlyAccess",
            "AmazonElastiCacheFullAccess",
            "AmazonElastiCacheReadOnlyAccess",
            "AmazonElasticFileSystemClientFullAccess",
            "AmazonElasticFileSystemClientReadOnlyAccess",
            "AmazonElasticFileSystemClientReadWriteAccess",
            "AmazonElasticFileSystemFullAccess",
            "AmazonElasticFileSystemReadOnlyAccess",
            "AmazonEventBridgeFullAccess",
            "AmazonEventBridgeReadOnlyAccess",
            "AmazonEventBridgeSchedulerFullAccess",
            "AmazonEventBridgeSchedulerReadOnlyAccess",
            "AmazonKinesisFirehoseFullAccess",
            "AmazonKinesisFirehoseReadOnlyAccess",
            "AmazonKinesisFullAccess",
            "AmazonKinesisReadOnlyAccess",
            "AmazonMQFullAccess",
            "AmazonMQReadOnlyAccess",
            "AmazonMSKFullAccess",
            "AmazonMSKReadOnlyAccess",
            "AmazonOpenSearchServiceFullAccess",
            "AmazonOpenSearchServiceReadOnlyAccess",
            "AmazonPollyFullAccess",
            "AmazonPollyReadOnlyAccess",
            "AmazonRDSDataFullAccess",
            "AmazonRDSFullAccess",
            "AmazonRDSReadOnlyAccess",
            "AmazonRedshiftDataFullAccess",
            "AmazonRedshiftFullAccess",
            "AmazonRedshiftReadOnlyAccess",
            "AmazonRekognitionFullAccess",
            "AmazonRekognitionReadOnlyAccess",
            "AmazonRoute53FullAccess",
            "AmazonRoute53ReadOnlyAccess",
            "AmazonS3FullAccess",
            "AmazonS3ReadOnlyAccess",
            "AmazonSESFullAccess",
            "AmazonSESReadOnlyAccess",
            "AmazonSNSFullAccess",
            "AmazonSNSReadOnlyAccess",
            "AmazonSQSFullAccess",
            "AmazonSQSReadOnlyAccess",
            "AmazonSSMFullAccess",
            "AmazonSSMManagedInstanceCore",
            "AmazonSSMReadOnlyAccess",
            "AmazonSageMakerFullAccess",
            "AmazonTextractFullAccess",
            "AmazonTimestreamFullAccess",
            "AmazonTimestreamReadOnlyAccess",
            "AmazonTranscribeFullAccess",
            "AmazonTranscribeReadOnlyAccess",
            "AmazonVPCFullAccess",
            "AmazonVPCReadOnlyAccess",
            "CloudFrontFullAccess",
            "CloudFrontReadOnlyAccess",
            "CloudWatchAgentServerPolicy",
            "CloudWatchEventsFullAccess",
            "CloudWatchEventsReadOnlyAccess",
            "CloudWatchFullAccess",
            "CloudWatchFullAccessV2",
            "CloudWatchLambdaApplicationSignalsExecutionRolePolicy",
            "CloudWatchLambdaInsightsExecutionRolePolicy",
            "CloudWatchLogsFullAccess",
            "CloudWatchLogsReadOnlyAccess",
            "CloudWatchReadOnlyAccess",
            "CloudWatchSyntheticsFullAccess",
            "ComprehendFullAccess",
            "ComprehendReadOnly",
            "IAMFullAccess",
            "IAMReadOnlyAccess",
            "PowerUserAccess",
            "ReadOnlyAccess",
            "SecretsManagerReadWrite",
            "SecurityAudit",
            "TranslateFullAccess",
            "TranslateReadOnly",
        ],
    ),
    (
        "/job-function/",
        &[
            "Billing",
            "DataScientist",
            "DatabaseAdministrator",
            "NetworkAdministrator",
            "SupportUser",
            "SystemAdministrator",
            "ViewOnlyAccess",
        ],
    ),
    (
        "/service-role/",
        &[
            "AWSAppSyncPushToCloudWatchLogs",
            "AWSBatchServiceRole",
            "AWSCodeDeployRole",
            "AWSCodeDeployRoleForLambda",
            "AWSCodeDeployRoleForLambdaLimited",
            "AWSGlueServiceRole",
            "AWSLambdaBasicDurableExecutionRolePolicy",
            "AWSLambdaBasicExecutionRole",
            "AWSLambdaDynamoDBExecutionRole",
            "AWSLambdaENIManagementAccess",
            "AWSLambdaKinesisExecutionRole",
            "AWSLambdaMSKExecutionRole",
            "AWSLambdaRole",
            "AWSLambdaSQSQueueExecutionRole",
            "AWSLambdaVPCAccessExecutionRole",
            "AWS_ConfigRole",
            "AmazonAPIGatewayPushToCloudWatchLogs",
            "AmazonEC2ContainerServiceRole",
            "AmazonECSTaskExecutionRolePolicy",
            "AmazonRDSEnhancedMonitoringRole",
            "AmazonS3ObjectLambdaExecutionRolePolicy",
            "AmazonSNSRole",
        ],
    ),
];

/// A policy that AWS provides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Provided {
    /// `PolicyName`
    pub(super) name: &'static str,
    /// `Path`
    pub(super) path: &'static str,
}

impl Provided {
    /// `Arn`
    pub(super) fn arn(self) -> String {
        format!("{HEAD}{}{}", self.path, self.name)
    }
}

/// All that are known.
pub(super) fn all() -> impl Iterator<Item = Provided> {
    TABLE.iter().flat_map(|(path, names)| names.iter().map(|name| Provided { name, path }))
}

/// The policy of an ARN.
pub(super) fn find(arn: &str) -> Option<Provided> {
    let rest = arn.strip_prefix(HEAD)?;
    let (path, name) = rest.split_at(rest.rfind('/')? + 1);
    all().find(|known| known.path == path && known.name == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_arn_is_known_with_its_path() {
        let basic = find("arn:aws:iam::aws:policy/service-role/AWSLambdaBasicExecutionRole").unwrap();
        assert_eq!((basic.name, basic.path), ("AWSLambdaBasicExecutionRole", "/service-role/"));
        assert_eq!(find(&basic.arn()), Some(basic));
        for wrong in [
            "arn:aws:iam::aws:policy/AWSLambdaBasicExecutionRole",
            "arn:aws:iam::aws:policy/service-role/AWSLambdaBasicExecutionRol",
            "arn:aws:iam::aws:policy/",
            "arn:aws:iam::000000000000:policy/AdministratorAccess",
        ] {
            assert_eq!(find(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn the_table_is_in_order() {
        assert!(TABLE.is_sorted_by(|one, other| one.0 < other.0));
        assert!(TABLE.iter().all(|(_, names)| names.is_sorted_by(|one, other| one < other)));
    }
}
